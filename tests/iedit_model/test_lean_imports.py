"""What editing does not need stays out of its process, and of no other."""

import subprocess
import sys

import torch

from iedit_model.models.lean_imports import lean_imports

HIDDEN = """
import sys
from iedit_model.models.lean_imports import lean_imports
with lean_imports(("wave",)):
    try:
        import wave
    except ModuleNotFoundError:
        print("hidden")
import wave
print("there")
"""


def test_a_package_is_hidden_inside_the_block_and_there_again_after_it():
    run = subprocess.run([sys.executable, "-c", HIDDEN], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["hidden", "there"]


def test_a_process_that_has_torch_may_train_and_keeps_everything():
    assert "torch" in sys.modules
    assert torch.nn is not None
    sys.modules.pop("wave", None)
    with lean_imports(("wave",)):
        import wave

        assert wave.__name__ == "wave"
