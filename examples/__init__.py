"""Examples of the Gaussian-process limit; each is a command with a figure."""
