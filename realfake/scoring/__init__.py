"""Score corpora of any size into Parquet files, in any number of processes."""
