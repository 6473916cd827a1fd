"""When to stop: one rule per file, composed with the fit from outside."""
