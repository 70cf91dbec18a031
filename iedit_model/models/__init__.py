"""The pretrained networks: where they come from, and one wrapper for each."""
