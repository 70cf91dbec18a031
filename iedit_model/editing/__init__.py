"""What stands around the sampling of ``iedit_model.edit``: pictures in and out, masks, and every method to compare."""
