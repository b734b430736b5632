"""The parts of `scripts/benchmark.py`, and the drawn pictures that they, `scripts/kill_and_resume.py` and `scripts/soak.py` work on."""
