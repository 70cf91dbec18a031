"""What the train stage stands on: rows, their order, caches of encodings, checkpoints, the log of a run."""
