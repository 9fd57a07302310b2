"""Hiding values and scoring what a method makes of them; tests of genes; simulated counts."""
