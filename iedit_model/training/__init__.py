"""Losses and the training step of the paper."""
