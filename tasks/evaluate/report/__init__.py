"""The report of an evaluation: a self-contained page, and its tables as JSON and LaTeX."""
