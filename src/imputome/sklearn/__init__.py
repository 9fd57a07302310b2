"""For scikit-learn."""
