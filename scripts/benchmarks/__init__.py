"""The parts of `scripts/benchmark.py`, and the drawn pictures of this and other scripts."""
