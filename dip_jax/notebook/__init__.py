"""Arrays in, arrays out: a function for each task, and a progress bar, for notebooks and scripts."""
