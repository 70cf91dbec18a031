"""Every error of the store, each a situation that a caller can act on.

StorageError
├── AddressError             a root or a path inside it that cannot be used
├── RemoteError              a remote store that cannot be reached, or fails
├── MissingFileError         a file that should be there is not
├── CorruptFileError         a file is there but its bytes are not what was written
│   ├── DamagedFileError     a file of a finished shard is not what its marker says: to be made again
│   ├── TruncatedTarError    a tar ends before its end marker
│   └── ForbiddenMemberError a tar member that is never unpacked: link, folder, absolute, oversize, twice
├── DiskFullError            no room left on the disk or in the quota
├── OutputExistsError        a file of another's stands where a command is to write
├── FingerprintError         a value that differs between processes or machines
├── SchemaError              a table whose columns, types, nulls or keys are not the declared ones
├── FilterError              a filter expression that cannot be understood
├── ShardNameError           a stage, shard, fingerprint or file suffix that cannot be part of an address
├── AccountingError          samples that came in but neither went out nor were dropped
└── VersionError
    ├── UnknownVersionError  no version, or more than one, begins with this id
    ├── VersionConflictError a version of this id exists with other rows
    └── EmptyVersionError    a version without a single sample
"""

from typing import ClassVar


class StorageError(Exception):
    """Root of all errors that the store raises itself."""

    retryable: ClassVar[bool] = False
    """Whether another try may help; each class whose cause may pass says so itself."""
    stops_run: ClassVar[bool] = False
    """Whether every other shard would fail of the same cause, so that no further one is begun."""


class AddressError(StorageError):
    """A root or a path inside it cannot be used."""

    stops_run = True


class RemoteError(StorageError):
    """A remote store cannot be reached or fails; the message names the address."""

    retryable = True


class MissingFileError(StorageError):
    """A file that should be in the store is not there."""

    retryable = True


class CorruptFileError(StorageError):
    """A file is there, but its bytes are not what was written."""

    retryable = True


class DamagedFileError(CorruptFileError):
    """A file of a finished shard cannot be read or is not what its marker says: it is to be made again."""

    retryable = False

    def __init__(self, message: str, *paths: str) -> None:
        """Keep the paths of the damaged files, relative to the root of the store."""
        super().__init__(message, *paths)
        self.paths = paths

    def __str__(self) -> str:
        """Return the message."""
        return str(self.args[0])


class TruncatedTarError(CorruptFileError):
    """A tar ends before its end marker, or a range of it was cut short."""


class ForbiddenMemberError(CorruptFileError):
    """A tar member that is never unpacked: a link, a folder, an absolute name, a second of a name, too many bytes."""

    retryable = False


class DiskFullError(StorageError):
    """No room is left on the disk or in the quota; what was finished before is intact."""

    retryable = True
    stops_run = True


class OutputExistsError(StorageError):
    """Something else stands where a user wants a file to be written; it is never overwritten."""

    stops_run = True


class FingerprintError(StorageError):
    """A value would not be the same in another process or on another machine."""

    stops_run = True


class SchemaError(StorageError):
    """A table does not have the declared columns, types, nulls or keys."""

    stops_run = True


class FilterError(StorageError):
    """A filter expression cannot be understood."""


class ShardNameError(StorageError):
    """A stage, shard, fingerprint or file suffix cannot be part of an address."""

    stops_run = True


class AccountingError(StorageError):
    """Samples that came in neither went out nor were dropped with a reason."""


class VersionError(StorageError):
    """Root of what can go wrong with dataset versions."""

    stops_run = True


class UnknownVersionError(VersionError):
    """No version, or more than one, begins with the given id."""


class VersionConflictError(VersionError):
    """A version of the same id exists, whole, with other rows, although a version never changes."""


class EmptyVersionError(VersionError):
    """A version would have no sample."""
