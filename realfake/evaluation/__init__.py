"""Measurements of detectors and of their maps: figures, records, tables and plots."""
