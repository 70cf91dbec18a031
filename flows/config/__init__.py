"""The configuration: its tree, the profiles and overrides by users."""
