"""From a measured or a clean image to a `Case`: tasks, simulation, noise level, classical baselines."""
