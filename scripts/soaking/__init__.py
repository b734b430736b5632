"""The parts of `scripts/soak.py`: files to send, users who send them, memory of the server."""
