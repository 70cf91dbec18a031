"""Import of the model libraries without packages that they use only if they are there, and sampling never does.

diffusers imports peft for adapters and scipy for beta schedules, transformers scipy for the losses of object detection:
about a fifth of what a process that edits imports. ``sys.modules[name] = None`` is the import system's own way to say
that a package is not there.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

UNUSED_BY_SAMPLING = ("peft", "scipy")


@contextmanager
def lean_imports(names: tuple[str, ...] = UNUSED_BY_SAMPLING) -> Iterator[None]:
    """Hide packages for a block, in a process that has not imported torch yet; in any other do nothing.

    The libraries remember what they found: a process that trains must not use this.
    """
    hidden = [] if "torch" in sys.modules else [name for name in names if name not in sys.modules]
    absent: dict[str, Any] = dict.fromkeys(hidden)
    sys.modules.update(absent)
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
