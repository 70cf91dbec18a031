"""Stage plan: LAION-style metadata to filtered shards of URLs."""
