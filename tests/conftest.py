"""Settings of every test run."""

import os

from hypothesis import settings

# Before torch is imported anywhere. Workers of pytest-xdist share the cores, and with more threads a CPU kernel splits
# a batch by position: the last bits of a row then depend on where in the batch it stands.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# The first example of a test loads libraries, and machines are shared: the time of one says nothing.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
