"""Local and remote files: paths, and writes that are whole or absent."""
