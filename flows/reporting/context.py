"""A value that whoever runs a flow sets around it, and that the flow takes without being handed it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Surrounding(Generic[Value]):
    """A value for as long as a context lasts; flows that are called inside see it, other threads do not."""

    def __init__(self, name: str, default: Callable[[], Value]) -> None:
        """Name it, and say what is taken where nobody set one."""
        self._set: ContextVar[Value | None] = ContextVar(name, default=None)
        self._default = default

    def current(self) -> Value:
        """Return what was set last and still holds, or the default."""
        value = self._set.get()
        return self._default() if value is None else value

    @contextmanager
    def holding(self, value: Value) -> Iterator[None]:
        """Set the value until the end of the context."""
        token = self._set.set(value)
        try:
            yield
        finally:
            self._set.reset(token)
