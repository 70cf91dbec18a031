"""Settings of every test run."""

import os

# Before torch is imported anywhere. Workers of pytest-xdist share the cores, and with more threads a CPU kernel splits
# a batch by position: the last bits of a row then depend on where in the batch it stands.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
