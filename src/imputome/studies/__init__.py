"""Studies join methods, hidden values and scores into tables."""
