"""The statistics of posterior samples, on arrays: moments, convergence, calibration, pooling."""
