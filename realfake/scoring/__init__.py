"""Corpora of any size to Parquet shards: the fastest engine within tolerance, in as many processes as there are."""
