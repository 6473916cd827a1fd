"""Many fits on many devices: slots, the compiled step loop, the scheduler, checkpoints."""
