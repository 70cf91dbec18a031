"""pyarrow's compute functions, loaded when they are first needed."""

from typing import Any


def compute() -> Any:
    """Return ``pyarrow.compute``: it makes its functions at run time, so that type checkers do not know them."""
    import pyarrow.compute

    return pyarrow.compute
