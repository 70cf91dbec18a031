"""Evaluation: editors on evaluation sets, metrics with intervals, history and report."""
