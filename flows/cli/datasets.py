"""``iedit datasets`` and ``iedit gallery``: list, show, compare, check, cut and view dataset versions."""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cli.options import Command, add_root, print_version, size_text

if TYPE_CHECKING:
    from storage import VersionInfo, VersionStore
    from tasks.dataset.takedown import TakedownList


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's subcommands."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    versions = _action(actions, "list", "all versions")
    versions.set_defaults(act=_list)
    show = _action(actions, "show", "a version's funnel, splits and lineage", versions=("version",))
    show.set_defaults(act=_show)
    diff = _action(actions, "diff", "which samples came, went or changed, and why", versions=("old", "new"))
    diff.add_argument("--samples", type=int, default=10, help="samples to name of each kind (default: %(default)s)")
    diff.set_defaults(act=_diff)
    verify = _action(actions, "verify", "read every file that led to a version again", versions=("version",))
    verify.add_argument(
        "--repair", action="store_true", help="remove damaged files of stages: the same build makes them again"
    )
    verify.set_defaults(act=_verify)
    card = _action(actions, "card", "write the dataset card", versions=("version",))
    card.add_argument("-o", "--out", type=Path, help="also write it to this file")
    card.set_defaults(act=_card)
    subset = _action(actions, "subset", "a version of the samples that pass a filter", versions=("version",))
    subset.add_argument("--where", required=True, metavar="FILTER", help="like \"relation == 'antonym'\"")
    subset.set_defaults(act=_subset)
    takedown = _action(actions, "takedown", "a version without listed images", versions=("version",))
    takedown.add_argument("list", type=Path, help="URLs or sha256 hashes, one per line, or a parquet of them")
    takedown.add_argument(
        "--purge",
        action="store_true",
        help="remove every trace of the images under the root, in all versions, for good",
    )
    takedown.set_defaults(act=_takedown)
    gc = _action(actions, "gc", "files that no version needs")
    gc.add_argument("--keep", nargs="+", metavar="VERSION", help="versions to keep (default: all)")
    gc.add_argument(
        "--older-than", type=float, default=86_400.0, metavar="S", help="spare younger files (default: 1 day)"
    )
    gc.add_argument("--remove", action="store_true", help="remove them; without it they are only listed")
    gc.set_defaults(act=_gc)


def run(options: argparse.Namespace) -> int:
    """Run the subcommand."""
    from storage import Files, VersionStore

    return options.act(VersionStore(Files(options.root)), options)


def configure_gallery(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_root(parser)
    parser.add_argument("version", help="id of the version, the start of one, or latest")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="page to write (default: VERSION.html)")
    parser.add_argument("--limit", type=int, default=200, help="most pairs on the page (default: %(default)s)")
    parser.add_argument("--where", metavar="FILTER", help="only pairs like \"split == 'val' and similarity > 0.8\"")


def run_gallery(options: argparse.Namespace) -> int:
    """Write the page."""
    from storage import Files, VersionStore
    from tasks.dataset.gallery import GalleryConfig, write_gallery
    from tasks.exports import note_outside

    versions = VersionStore(Files(options.root))
    info = print_version(versions, options.version)
    config = GalleryConfig(limit=options.limit, where=options.where)
    path = options.out or Path(f"{info.id}.html")
    path.parent.mkdir(parents=True, exist_ok=True)
    print(write_gallery(versions, info.id, path, config))
    note_outside(versions.files, "a gallery", path, version=info.id)
    return 0


def _action(actions: Any, name: str, words: str, *, versions: tuple[str, ...] = ()) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=words, description=words[0].upper() + words[1:] + "."
    )
    for version in versions:
        parser.add_argument(version, help="id of a version, the beginning of one, or latest")
    add_root(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    # Also here, since a subcommand's own default would hide the one given before it.
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def _list(versions: "VersionStore", options: argparse.Namespace) -> int:
    from flows.reporting.version_text import table_lines

    infos = [versions.load(name) for name in versions.list()]
    if options.json:
        print(json.dumps([_values(info) for info in infos]))
    elif not infos:
        print(f"no version in {options.root} yet")
    else:
        rows = [(info.id, f"{info.num_samples:,}", _splits(info), _origin(info)) for info in infos]
        print("\n".join(table_lines(("version", "pairs", "splits", "part of"), rows, right=(1,))))
    return 0


def _show(versions: "VersionStore", options: argparse.Namespace) -> int:
    from flows.reporting.version_text import funnel_lines, lineage_lines

    info = print_version(versions, options.version, as_json=options.json)
    if options.json:
        print(info.to_json().decode(), end="")
        return 0
    print("", "Funnel", *funnel_lines(info), sep="\n")
    print("", "Lineage", *lineage_lines(info), sep="\n")
    return 0


def _diff(versions: "VersionStore", options: argparse.Namespace) -> int:
    from storage import diff_versions

    old, new = (print_version(versions, name, as_json=options.json).id for name in (options.old, options.new))
    diff = diff_versions(versions, old, new)
    lists = {"added": diff.added, "removed": diff.removed, "changed": diff.changed}
    if options.json:
        changes = {
            name: [{"sample_id": change.sample_id, "why": change.why, "columns": change.columns} for change in entries]
            for name, entries in lists.items()
        }
        print(json.dumps({"old": old, "new": new, "lineage": diff.lineage, **changes}))
        return 0
    print(f"{old} -> {new}")
    for line in diff.lineage or ("the same input, code and configuration",):
        print(f"  {line}")
    for name, entries in lists.items():
        print(f"{name}: {len(entries):,}")
        for why, count in diff.counts()[name].items():
            print(f"  {count:,} {why}")
        for change in entries[: options.samples]:
            print(f"    {change.sample_id} {change.why} {', '.join(change.columns)}".rstrip())
    return 0


def _verify(versions: "VersionStore", options: argparse.Namespace) -> int:
    from storage import repair, verify_version

    info = print_version(versions, options.version, as_json=options.json)
    problems = verify_version(versions, info.id)
    removed = repair(versions, problems) if options.repair else []
    if options.json:
        print(json.dumps({"version": info.id, "problems": [str(problem) for problem in problems], "removed": removed}))
        return 1 if problems else 0
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problem(s)" if problems else f"whole: {len(info.files)} files, and all that led to them")
    if problems:
        removal = f"{len(removed)} damaged file(s) removed" if options.repair else "--repair removes damaged files"
        print(f"{removal}; the build that made the version makes them again")
    return 1 if problems else 0


def _card(versions: "VersionStore", options: argparse.Namespace) -> int:
    from storage.atomic import create_bytes
    from tasks.dataset.dataset_card import write_card
    from tasks.exports import note_outside

    version = print_version(versions, options.version, as_json=options.json).id
    path = write_card(versions, version)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        create_bytes(options.out, versions.files.read_bytes(path))
        note_outside(versions.files, "a dataset card", options.out, version=version)
    print(options.out or versions.files.address(path))
    return 0


def _subset(versions: "VersionStore", options: argparse.Namespace) -> int:
    whole = print_version(versions, options.version, as_json=options.json)
    _print_new(versions.subset(whole.id, where=options.where), options)
    return 0


def _takedown(versions: "VersionStore", options: argparse.Namespace) -> int:
    from tasks.dataset.takedown import read_takedown_list, take_down

    listed = read_takedown_list(options.list)
    if options.purge:
        return _purge(versions, listed, options)
    whole = print_version(versions, options.version, as_json=options.json)
    done = take_down(versions, whole.id, listed)
    _print_new(done.version, options)
    if not options.json:
        print(f"{len(done.removed):,} samples went, {len(done.tars):,} tars were written anew")
        for entry in done.unmatched:
            print(f"nothing shows {entry}")
        print("the images themselves stay in the store until --purge removes every trace of them")
    return 0


def _purge(versions: "VersionStore", listed: "TakedownList", options: argparse.Namespace) -> int:
    from tasks.dataset.purge import purge

    done = purge(versions, listed)
    replaced = {old: None if new is None else new.id for old, new in done.versions.items()}
    outside = [*done.outside, "the metadata that was built from", f"Prefect's own records ({_prefect_place()})"]
    if options.json:
        new = next((new for new in replaced.values() if new is not None), None)
        found = {"pictures": done.pictures, "version": new, "versions": replaced, "removed": done.removed}
        print(json.dumps({**found, "outside": outside, "unmatched": done.unmatched}))
        return 0
    print(f"{done.pictures:,} images found, {len(done.removed):,} files removed; their hashes stay in the ledger")
    for old, new in replaced.items():
        print(f"version {old} is gone" + (": no sample was left" if new is None else f", {new} takes its place"))
    print("nothing under the root shows them any more; outside the root, look at:")
    for entry in outside:
        print(f"  {entry}")
    for entry in done.unmatched:
        print(f"nothing shows {entry}")
    return 0


def _prefect_place() -> str:
    return os.environ.get("PREFECT_API_URL") or os.environ.get("PREFECT_HOME") or str(Path("~/.prefect").expanduser())


def _gc(versions: "VersionStore", options: argparse.Namespace) -> int:
    from storage import collect_garbage
    from tasks.stages import stage_names

    garbage = collect_garbage(
        versions, stages=stage_names(), keep=options.keep, older_than_s=options.older_than, remove=options.remove
    )
    if options.json:
        print(json.dumps({"removed": garbage.removed, "files": garbage.files, "versions": garbage.versions}))
        return 0
    for folder, size in garbage.folders().items():
        print(f"{size / 1e6:>10,.1f} MB  {folder}")
    verb = "removed" if garbage.removed else "can be removed (--remove does)"
    print(f"{len(garbage.files):,} files, {garbage.num_bytes / 1e6:,.1f} MB {verb}")
    return 0


def _print_new(info: "VersionInfo", options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(_values(info)))
    else:
        print(f"new version {info.id}: {size_text(info)}")


def _values(info: "VersionInfo") -> dict[str, Any]:
    made = {"version": info.id, "samples": info.num_samples, "splits": dict(info.splits)}
    return made | {"parent": info.parent, "where": info.where}


def _splits(info: "VersionInfo") -> str:
    return ", ".join(f"{split} {count:,}" for split, count in info.splits.items())


def _origin(info: "VersionInfo") -> str:
    return f"{info.parent}{f' where {info.where}' if info.where else ''}" if info.parent else "-"


COMMANDS = {"datasets": Command(configure, run), "gallery": Command(configure_gallery, run_gallery)}
