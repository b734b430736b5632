"""Audits of a corpus: what reveals the label apart from the pictures, and a copy without it."""
