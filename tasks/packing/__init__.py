"""Stage pack: groups, splits and the sample as it lies in a tar."""
