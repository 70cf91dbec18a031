"""Stage mask: CLIPSeg masks of source and target."""
