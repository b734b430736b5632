"""Image classifiers of transformers: loading, calibration folding, preprocessing and geometry."""
