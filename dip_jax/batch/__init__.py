"""A folder of images as one job: inputs, workers, processes, interrupts."""
