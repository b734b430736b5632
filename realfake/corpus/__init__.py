"""Corpora of photographs and generated images: read, label, split and clean them with `load`."""
