"""Dataset versions as users name and read them."""

from collections.abc import Iterator, Sequence

from storage import UnknownVersionError, VersionInfo, VersionStore

LATEST = "latest"
"""What stands for the full version that was written last."""


def find_version(versions: VersionStore, name: str) -> VersionInfo:
    """Return the version with an id, the beginning of one, or ``latest``.

    Raises:
        UnknownVersionError: there is none, or several begin so.
    """
    return versions.load(latest_version(versions) if name == LATEST else name)


def latest_version(versions: VersionStore) -> str:
    """Return the id of the newest full version: one that is no subset and no takedown of another.

    Raises:
        UnknownVersionError: there is no version yet, or none but parts of versions that are gone.
    """
    written = {
        path.split("/")[1]: stat.modified
        for path, stat in versions.files.stats("versions").items()
        if path.endswith("/version.json")
    }
    for version in sorted(written, key=lambda name: (-written[name], name)):
        if versions.load(version).parent is None:
            return version
    raise UnknownVersionError(f"there is no version in {versions.files.root} yet: make one with iedit build")


def funnel_lines(info: VersionInfo) -> list[str]:
    """Return the funnel as lines: stage, in, out, and what was dropped why."""
    rows = [
        (record.stage, f"{record.num_in:,}", f"{record.num_out:,}", _reasons(record.dropped)) for record in info.stages
    ]
    return table_lines(("stage", "in", "out", "dropped"), rows, right=(1, 2))


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Return rows of text as aligned columns under a head; ``right`` names the columns that end flush."""
    widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    return [line(row) for row in (head, *rows)]


def lineage_lines(info: VersionInfo) -> Iterator[str]:
    """Yield what made a version: its input, and each stage with its code version, configuration and model."""
    yield f"input     {info.input_digest[:16]}"
    if info.parent is not None:
        yield f"part of   {info.parent}{f', where {info.where}' if info.where else ''}"
    for record in info.stages:
        model = f", model {record.weights_digest}" if record.weights_digest else ""
        yield f"{record.stage:<9} code {record.code_version}, {record.num_shards} shard(s), {record.digest[:16]}{model}"


def _reasons(dropped: object) -> str:
    items = sorted(dict(dropped).items(), key=lambda item: (-item[1], item[0])) if isinstance(dropped, dict) else []
    return ", ".join(f"{reason} {count:,}" for reason, count in items) or "-"
