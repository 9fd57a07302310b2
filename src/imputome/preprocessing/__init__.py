"""What is done to a matrix before a method sees it: scales, inspection, hiding values."""
