"""Research questions asked of the product and the miniature: ``python -m experiments.NAME``."""
