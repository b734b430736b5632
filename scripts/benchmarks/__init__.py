"""The parts of `scripts/benchmark.py`, and the drawn pictures that they and `scripts/kill_and_resume.py` work on."""
