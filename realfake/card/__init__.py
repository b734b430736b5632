"""The model card of a checkpoint: `README.md` with its metadata."""
