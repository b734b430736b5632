"""Train, calibrate, measure and publish a detector: the steps of `realfake train`."""
