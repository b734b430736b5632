"""Measurements of detectors and of their maps, the log of those of test splits, and their figures, tables and plots."""
