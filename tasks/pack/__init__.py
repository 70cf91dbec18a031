"""Stage pack: splits, WebDataset tars, manifest and dataset version."""
