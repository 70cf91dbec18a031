"""The start-up benchmark adds up what ``-X importtime`` prints."""

import subprocess
import sys

from benchmarks.bench_startup import import_seconds

LOG = """import time: self [us] | cumulative | imported package
import time:       100 |        100 |   zipimport
import time:     20000 |     150000 |     torch.nn
a warning that some library prints
import time:      5000 |      90000 | torch
"""


def test_the_time_of_a_package_is_that_of_its_own_modules():
    assert import_seconds(LOG) == {"zipimport": 1e-4, "torch": 0.025}


def test_the_log_of_this_interpreter_is_read():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import json.decoder"], capture_output=True, text=True, check=True
    )
    found = import_seconds(done.stderr)
    assert found["json"] > 0
    assert sum(found.values()) < 60
