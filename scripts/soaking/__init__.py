"""The parts of `scripts/soak.py`: what is sent, the users who send it, and the memory of the page that answers."""
