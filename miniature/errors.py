"""Errors of the miniature. The tree: MiniatureError > SiteConfigError, MetadataFolderError, SiteAddressError."""


class MiniatureError(Exception):
    """Root of what the miniature raises on purpose."""


class SiteConfigError(MiniatureError, ValueError):
    """A setting of the web site is out of range, or its settings do not fit together."""


class MetadataFolderError(MiniatureError):
    """A folder cannot take metadata shards, because a reader would mix them with what is already there."""


class SiteAddressError(MiniatureError, OSError):
    """The web site cannot listen at the address that was asked for."""
