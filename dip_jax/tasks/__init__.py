"""Cases: from a measurement or a clean image to a `Case`, the noise level, and classical baselines."""
