"""Stage retrieve: the pseudo-target of each source image."""
