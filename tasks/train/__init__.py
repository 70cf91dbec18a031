"""Stage train: a dataset version to a fine-tuned model."""
