"""Notebooks as scripts with cells (`# %%`), and their rendering for the documentation."""
