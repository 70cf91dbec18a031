"""File systems of fsspec whose every error is one of ours and names the address that could not be used.

What their implementations raise (botocore, aiohttp, gcsfs, paramiko, httpx, ...) is no part of fsspec's interface. So
whatever comes is caught here and nowhere else; only what a caller can act on passes: a file that is missing or of
another kind, and this machine's own full disk.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self
from urllib.parse import urlsplit

from storage.atomic import FULL
from storage.errors import AddressError, RemoteError, StorageError

_PASSING = (StorageError, FileNotFoundError, IsADirectoryError, NotADirectoryError, FileExistsError)
_USER = re.compile(r"(?<=//)[^/@]*@")


def open_system(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and the address as it calls it.

    Raises:
        AddressError: no such system, a package that is not installed, or no credentials.
        RemoteError: it cannot be reached.
    """
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    with _named_errors(address):
        urlsplit(address)  # fsspec's chain of systems hides what is wrong with an address behind an error of its own
        # fsspec keeps one instance a thread and process; a cached listing would hide what others write.
        system, base = url_to_fs(address, use_listings_cache=False)
    return (system if isinstance(system, LocalFileSystem) else _Named(system, address)), base


class _Named:
    """A file system or one of its streams: the same methods, with errors that name the address."""

    def __init__(self, plain: Any, address: str) -> None:
        self._plain, self._address = plain, address

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._plain, name)
        if not callable(found):
            return found

        def named(*given: Any, **options: Any) -> Any:
            with _named_errors(self._address):
                result = found(*given, **options)
            return _Named(result, self._address) if name == "open" else result

        return named

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        with _named_errors(self._address):
            self._plain.close()


@contextmanager
def _named_errors(address: str) -> Iterator[None]:
    try:
        yield
    except _PASSING:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        shown, kind = _USER.sub("***@", address), type(error).__name__
        said = f"cannot use {shown}: {' '.join(str(error).split())[:300] or kind}"
        if "Credential" in kind or "Auth" in kind or isinstance(error, PermissionError):
            raise AddressError(
                f"{said} ({kind}): give credentials as the store's own tools take them, in its configuration files or "
                "the environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, FSSPEC_S3_ANON=true, ...)"
            ) from error
        if isinstance(error, ImportError):
            raise AddressError(f"{said}; install that package, or take another address") from error
        if isinstance(error, NotImplementedError):
            raise AddressError(f"{said}: such an address can only be read; take another one") from error
        if isinstance(error, ValueError | TypeError):
            raise AddressError(f"{said}: check the address") from error
        endpoint = ", the endpoint (FSSPEC_S3_ENDPOINT_URL)" * address.startswith("s3")
        raise RemoteError(f"{said} ({kind}): check the address{endpoint} and the network, and run it again") from error
