"""Inspection of the input: its state, what is missing, and which method suits."""
