"""Evaluation sets: one folder format, readers of published layouts, and a page to paint masks by hand."""
