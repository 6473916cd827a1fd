"""Forward models y = A x, one kind per file."""
