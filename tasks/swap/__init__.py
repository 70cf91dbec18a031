"""Stage swap: a caption to an edit prompt, by WordNet."""
