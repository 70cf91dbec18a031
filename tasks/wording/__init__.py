"""Stage swap: words, their forms and WordNet's relations between them."""
