"""Stored images, shared by every stage that decodes them."""
