"""Parts of `scripts/soak.py`: files, users, memory, and one visitor of the page."""
