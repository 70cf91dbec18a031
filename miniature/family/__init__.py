"""How each member of the small family is built and trained: one file a member, one shared loop."""
