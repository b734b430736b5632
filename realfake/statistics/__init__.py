"""Metrics, calibration and conformal thresholds on arrays: numpy and scipy only."""
