"""Raster images: untrusted bytes to RGB, mask files, encoding, data URLs, overlays and contact sheets. No torch."""
