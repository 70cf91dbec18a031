"""Stage download: one bounded, refused-by-default HTTP fetch, and what became of it."""
