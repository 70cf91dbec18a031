"""What people do with a finished version: look at it, describe it, take samples out of it."""
