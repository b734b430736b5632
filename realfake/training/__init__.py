"""What stands behind `train_hf.py`, and behind the scripts that start it or end like it."""
