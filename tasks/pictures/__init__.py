"""Decoded pictures, shared by every stage that looks at them."""
