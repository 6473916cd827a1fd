"""The networks, one flax module per file; with `nets`, the only code that knows flax."""
