"""The networks: one family of flax modules per file."""
