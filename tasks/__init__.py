"""What is done: one folder or module per stage, which declares itself beside its work (``tasks.stage``)."""
