"""Evaluation sets: made, imported, annotated and read."""
