"""Prefect server, worker and child processes."""
