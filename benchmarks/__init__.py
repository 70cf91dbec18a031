"""Time and memory of the product against baselines: ``python -m benchmarks.bench_NAME``."""
