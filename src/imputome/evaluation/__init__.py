"""Scoring: arrays in, numbers out; nothing here knows a method."""
