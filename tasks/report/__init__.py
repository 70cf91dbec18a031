"""The report of an evaluation: one page that asks for nothing from anywhere, and its tables as JSON and LaTeX."""
