"""Published systems as rows: their slots, their baseline, the figure they report, and what we get."""
