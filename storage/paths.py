"""What may be the root of a store, and what may be the path of a file inside it."""

from pathlib import Path

from storage.errors import AddressError

_MAX_SEGMENT_BYTES = 200
_FORBIDDEN = frozenset('*?[]\\"<>|')
"""Wildcards (file systems of fsspec expand them) and characters that some store or tool treats specially."""


def checked_path(path: str) -> str:
    """Return ``path`` if it is a plain relative POSIX path that cannot leave its root.

    Raises:
        AddressError: empty, absolute, a URL, with ``.``, ``..``, an empty or overlong segment, a wildcard, a backslash
            or a control character.
    """
    if not isinstance(path, str) or not path:
        raise AddressError(f"a path must be a non-empty string, got {path!r}")
    if not (path.isprintable() and _FORBIDDEN.isdisjoint(path)):
        bad = sorted({letter for letter in path if letter in _FORBIDDEN or not letter.isprintable()})
        raise AddressError(f"path {path!r} holds {bad}, which is not allowed")
    if "://" in path:
        raise AddressError(f"path {path!r} is a URL: give a path relative to the root")
    for segment in path.split("/"):
        if segment in {"", ".", ".."}:
            raise AddressError(f"path {path!r} must be relative, without '.', '..' or empty segments")
        if len(segment.encode()) > _MAX_SEGMENT_BYTES:
            raise AddressError(f"path {path!r:.80} has a segment of over {_MAX_SEGMENT_BYTES} bytes")
    return path


def normal_root(root: str) -> str:
    """Return the root in one spelling: an absolute local path, or ``scheme://...`` without a final slash.

    Raises:
        AddressError: empty, with control characters, a chained address, or without a bucket.
    """
    if not isinstance(root, str) or not root or not root.isprintable():
        raise AddressError(f"a root must be a printable, non-empty address, got {root!r}")
    if "::" in root:
        raise AddressError(f"root {root!r} is a chained address, whose writes cannot be atomic: give a plain one")
    scheme, separator, rest = root.partition("://")
    if not separator:
        # Absolute, since other processes (Ray workers) have another working directory.
        return str(Path(root).expanduser().resolve())
    if scheme in {"file", "local"}:
        if not rest.startswith("/"):
            raise AddressError(f"root {root!r} must be absolute, as in file:///data/iedit")
        return str(Path(rest).resolve())
    if scheme != "memory" and not rest.strip("/"):
        raise AddressError(f"root {root!r} names no bucket or host")
    return f"{scheme}://{rest.rstrip('/')}"
