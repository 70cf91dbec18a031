"""Stages index and retrieve: vectors, exclusions, scores and gates."""
