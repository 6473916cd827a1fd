"""The files that a run writes: summaries, figures, pages."""
