"""Stage plan: what the metadata rows say before any fetch."""
