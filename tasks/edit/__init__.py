"""Editing image files: results, contact sheet and record."""
