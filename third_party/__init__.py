"""Code of others as they published it, where no package of theirs can be depended on; each folder has its licence."""
