"""Metrics, calibration and conformal prediction, from margins and labels alone: numpy and scipy, no model and no image."""
