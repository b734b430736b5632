"""Corpora of photographs and generated images: read, labelled, cleaned and split by `load`, the one loader for all scripts."""
