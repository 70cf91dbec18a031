"""How a running flow shows progress and results: terminal, logs and Prefect artifacts."""
