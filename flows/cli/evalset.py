"""``iedit evalset``: list, show, make, import and annotate evaluation sets."""

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cli.options import DEFAULT_ROOT, Command, add_config, config_of

if TYPE_CHECKING:
    from tasks.evaluate.sets.evalset import EvalSet


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list the sets below a folder")
    listing.add_argument("folder", nargs="?", type=Path, default=Path(DEFAULT_ROOT) / "evalsets")
    showing = actions.add_parser("show", help="describe one set and check every image and mask of it")
    showing.add_argument("folder", metavar="SET")
    real = actions.add_parser("make-real", help="make the miniature's set of 52 pairs with true masks")
    real.add_argument("folder", metavar="SET")
    _configure_generated(
        actions.add_parser("make-generated", help="generate 20 images with the base model, and 70 edits of them")
    )
    importing = actions.add_parser("import", help="bring PIE-Bench or MagicBrush into the format")
    importing.add_argument("layout", choices=("pie-bench", "magic-brush"))
    importing.add_argument("source", type=Path, metavar="FOLDER", help="where the published files lie")
    importing.add_argument("folder", metavar="SET")
    importing.add_argument("--name", help="name of the set (default: that of the layout)")
    importing.add_argument("--limit", type=int, help="only the first pairs")
    importing.add_argument(
        "--border-ring", action="store_true", help="PIE-Bench: set the border of every mask, as its own evaluation does"
    )
    importing.add_argument("--all-turns", action="store_true", help="MagicBrush: also edits of edited images")
    painting = actions.add_parser("annotate", help="paint masks by hand, in the browser of this machine")
    painting.add_argument("folder", metavar="SET")
    painting.add_argument("--port", type=int, default=0, help="default: a free one")


def changes(options: argparse.Namespace) -> dict[str, Any]:
    """Return the changes of the profile's configuration, which make-generated takes."""
    from flows.config.profiles import EVALUATE

    return config_of(options, EVALUATE)


def run(options: argparse.Namespace) -> int:
    """Do what was asked for."""
    actions = {
        "list": _list,
        "show": _show,
        "make-real": _make_real,
        "make-generated": _make_generated,
        "import": _import,
        "annotate": _annotate,
    }
    return actions[options.action](options)


def set_text(evalset: "EvalSet") -> str:
    """Return what a set is, in a few lines."""
    masks = Counter(pair.mask_origin for pair in evalset.pairs)
    kinds = Counter(pair.kind or "unnamed" for pair in evalset.pairs)
    return "\n".join(
        [
            f"{evalset.info.name}: {evalset.info.description}",
            f"  {len(evalset.pairs)} pairs of {evalset.num_images} images, {evalset.info.origin}",
            f"  licence {evalset.info.license}",
            f"  masks   {', '.join(f'{count} {origin}' for origin, count in masks.most_common())}",
            f"  kinds   {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())}",
            f"  digest  {evalset.digest[:16]}",
        ]
    )


def _configure_generated(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="SET")
    add_config(parser)
    parser.add_argument("--seed", type=int, default=0, help="decides all noise (default: 0)")
    parser.add_argument("--steps", type=int, default=50, help="steps of the sampler (default: 50)")
    parser.add_argument("--no-masks", action="store_true", help="leave all masks to be painted by hand")


def _list(options: argparse.Namespace) -> int:
    from tasks.evaluate.errors import EvalSetError
    from tasks.evaluate.sets.evalset import PAIRS
    from tasks.evaluate.sets.folder import open_evalset

    found = sorted(path.parent for path in options.folder.glob(f"**/{PAIRS}"))
    if not found:
        print(f"there is no evaluation set in {options.folder}")
    for folder in found:
        try:
            evalset = open_evalset(folder)
        except EvalSetError as error:
            print(f"{folder}: damaged: {error}")
        else:
            print(f"{folder}: {evalset.info.name}, {len(evalset.pairs)} pairs of {evalset.num_images} images")
    return 0


def _show(options: argparse.Namespace) -> int:
    from tasks.evaluate.sets.folder import check_evalset, open_evalset

    evalset = open_evalset(options.folder)
    print(set_text(evalset))
    problems = check_evalset(evalset)
    print("\n".join(f"  problem: {problem}" for problem in problems) or "  every image and mask is whole")
    return 1 if problems else 0


def _make_real(options: argparse.Namespace) -> int:
    from flows.sources import make_real_set

    print(set_text(make_real_set(options.folder)))
    return 0


def _make_generated(options: argparse.Namespace) -> int:
    from flows.checks import check_writable
    from flows.config.profiles import resolve
    from flows.sources import draw_generated_set
    from iedit_model.editing.text_to_image import DrawConfig

    config = resolve(options.profile, changes(options)).evaluate
    check_writable(options.folder, "folder of the set")
    draw = DrawConfig(num_inference_steps=options.steps)
    made = draw_generated_set(options.folder, config, draw=draw, seed=options.seed, with_masks=not options.no_masks)
    print(set_text(made))
    return 0


def _import(options: argparse.Namespace) -> int:
    from itertools import islice

    from tasks.evaluate.sets.evalset import EvalSetInfo
    from tasks.evaluate.sets.folder import write_evalset
    from tasks.evaluate.sets.published import magic_brush_pairs, pie_bench_pairs

    if options.layout == "pie-bench":
        pairs = pie_bench_pairs(options.source, border_ring=options.border_ring)
        description, terms = "PIE-Bench (arXiv:2310.01506).", "see PIE-Bench's own terms"
    else:
        pairs = magic_brush_pairs(options.source, first_turn_only=not options.all_turns)
        description, terms = "MagicBrush (arXiv:2306.10012).", "CC BY 4.0"
    info = EvalSetInfo(name=options.name or options.layout, origin="imported", description=description, license=terms)
    print(set_text(write_evalset(options.folder, info, islice(pairs, options.limit))))
    return 0


def _annotate(options: argparse.Namespace) -> int:
    import threading

    from tasks.evaluate.sets.annotate import annotation_server
    from tasks.evaluate.sets.folder import open_evalset

    with annotation_server(open_evalset(options.folder), port=options.port) as address:
        print(f"Paint masks at {address} (this machine only); Ctrl-C ends it.", flush=True)
        threading.Event().wait()
    return 0


COMMANDS = {"evalset": Command(configure, run, changes)}
