"""A folder of images as one job: inputs, output folder, worker, processes, interrupts."""
