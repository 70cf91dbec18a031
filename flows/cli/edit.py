"""``iedit edit``: one image and a sentence in; results, a contact sheet and a record that repeats them."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import miniature
from flows.cli.options import Command
from iedit_model.editing.methods import method_info, unmasked_methods

if TYPE_CHECKING:
    from iedit_model.editing.registry import EditorModels
    from iedit_model.models.devices import DeviceConfig
    from tasks.edit.record import EditJob

WEIGHTS: Final = Path(miniature.__file__).parent / "weights"
"""Where the models are taken from when none are named."""

STEPS: Final = {"ddim": 50, "dpmsolver++": 20}
"""Steps of each sampler when none are asked for."""

_NO_MASK, _AUTO_MASK = "none", "auto"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("image", nargs="?", type=Path, metavar="IMAGE", help="image to edit, of any size")
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="what the edited image shall show")
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for the results; it keeps what it has",
    )
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="edit.json of an edit to make again, byte for byte")
    _add_words(parser.add_argument_group("words"))
    _add_mask(parser.add_argument_group("mask"))
    _add_sampling(parser.add_argument_group("sampling"))
    _add_models(parser.add_argument_group("models"))
    parser.set_defaults(default_of=parser.get_default)


def run(options: argparse.Namespace) -> int:
    """Edit and print where the results are."""
    from iedit_model.models.lean_imports import lean_imports

    with lean_imports():
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    from flows.checks import check_at_hand, check_writable
    from iedit_model.errors import ConfigError, ImageFileError
    from iedit_model.models.source import ModelSource

    check_writable(str(options.out), "folder for the results")
    if options.image is not None and not options.image.is_file():
        raise ImageFileError(f"{options.image} is no file")
    if options.model is not None:
        check_at_hand(ModelSource(options.model, revision=options.model_revision))
    from tasks.edit.edit import edit_file, repeat_edit

    if options.repeat is not None:
        if said := [name for name in vars(options) if name not in _WITH_REPEAT and _is_said(options, name)]:
            raise ConfigError(f"--repeat takes everything from its record; leave the {said[0].replace('_', '-')} out")
        outcome = repeat_edit(options.repeat, options.out)
    elif options.image is None or options.prompt is None:
        raise ConfigError('nothing to edit; say: iedit edit IMAGE "what it shall show" -o DIR')
    else:
        outcome = edit_file(options.image, _job(options), options.out, mask=_mask_file(options))
    for path in (*outcome.results, outcome.sheet, outcome.record):
        print(path)
    for note in outcome.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{len(outcome.results)} results in {outcome.seconds:.1f} s")
    return 0


def _job(options: argparse.Namespace) -> "EditJob":
    from iedit_model.editing.edit_masks import MaskConfig
    from iedit_model.editing.framing import FramingConfig
    from iedit_model.editing.instruct_editor import InstructSampling
    from iedit_model.editing.registry import EditorSettings
    from iedit_model.editing.settings import SamplingConfig
    from tasks.edit.record import EditJob

    method = _method(options)
    _check_used(options, method)
    num_steps = options.steps if options.steps is not None else STEPS[options.sampler]
    settings = EditorSettings(
        device=_device(options),
        sampling=SamplingConfig(
            strength=options.strength,
            guidance_scale=options.guidance,
            num_inference_steps=num_steps,
            sampler=options.sampler,
        ),
        # A method's ranges are its own: what it does not sample with is not checked for it.
        instruct=InstructSampling()
        if method_info(options.method).weights != "instruct"
        else InstructSampling(
            num_inference_steps=num_steps,
            guidance_scale=options.guidance,
            image_guidance_scale=options.image_guidance,
        ),
        masks=MaskConfig(
            source="word" if _mask(options) == _AUTO_MASK else "request",
            threshold=options.threshold,
            dilate_cells=options.dilate,
            on_empty=options.on_empty_mask,
        ),
        framing=FramingConfig(size_px=options.size, max_aspect=options.max_aspect),
        paste_back=options.paste_back,
    )
    return EditJob(
        method=method,
        models=_models(options),
        settings=settings,
        edit_prompt=options.prompt,
        source_prompt=options.source_prompt,
        word=options.word,
        replacement=options.replacement,
        instruction=options.instruction,
        num_results=options.n,
        seed=options.seed,
    )


_WITH_REPEAT: Final = ("repeat", "out", "default_of", "debug", "command", "version")
_FOR_MASKS: Final = ("threshold", "dilate", "on_empty_mask")
_FOR_INSTRUCTIONS: Final = ("image_guidance", "instruction")
_NOT_FOR_INSTRUCTIONS: Final = ("strength", "sampler", "source_prompt")


def _is_said(options: argparse.Namespace, name: str) -> bool:
    return getattr(options, name, None) != options.default_of(name)


def _check_used(options: argparse.Namespace, method: str) -> None:
    """Refuse an option that changes nothing with a method: who gives it expects that it does."""
    from iedit_model.errors import ConfigError

    info = method_info(method)
    unused = _NOT_FOR_INSTRUCTIONS if info.weights == "instruct" else _FOR_INSTRUCTIONS
    if not info.needs_mask:
        unused = (*unused, *_FOR_MASKS)
    if said := [name for name in unused if _is_said(options, name)]:
        raise ConfigError(f"--{said[0].replace('_', '-')} changes nothing with {info.title}: leave it out")


def _method(options: argparse.Namespace) -> str:
    from iedit_model.editing.methods import masked_form
    from iedit_model.errors import ConfigError

    method: str = options.method
    if _mask(options) == _NO_MASK:
        if method_info(method).needs_mask:
            raise ConfigError(f"{method} edits inside a mask; give --word, or --mask FILE")
        return method
    masked = masked_form(method) or method
    if not method_info(masked).needs_mask and options.mask is not None:
        raise ConfigError(f"{method} takes no mask; leave --mask out")
    return masked


def _mask(options: argparse.Namespace) -> str:
    """Return auto, none or the name of a file: what was said, else auto where there is a word to look for."""
    said: str | None = options.mask
    return said or (_AUTO_MASK if options.word else _NO_MASK)


def _mask_file(options: argparse.Namespace) -> Path | None:
    return None if _mask(options) in (_AUTO_MASK, _NO_MASK) else Path(options.mask)


def _models(options: argparse.Namespace) -> "EditorModels":
    from iedit_model.editing.registry import EditorModels
    from iedit_model.models.source import ModelSource

    is_instruct = method_info(options.method).weights == "instruct"
    own = WEIGHTS / ("instruct_pix2pix" if is_instruct else "ldm")
    model = ModelSource(options.model or str(own), revision=options.model_revision)
    segmenter = ModelSource(options.segmenter)
    if is_instruct:
        return EditorModels(instruct=model)
    return EditorModels(base=model, tuned=model, segmenter=segmenter)


def _device(options: argparse.Namespace) -> "DeviceConfig":
    from iedit_model.models.devices import DeviceConfig

    return DeviceConfig(device=options.device, dtype=options.dtype)


def _add_words(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--word", help="word or words of the image to edit (bus); automatic masks look for them")
    group.add_argument("--replacement", help="what stands there instead (train); tells InstructPix2Pix what to do")
    group.add_argument("--source-prompt", help="what the image shows now; DiffEdit compares with it")
    group.add_argument("--instruction", help="for InstructPix2Pix, instead of --word and --replacement")


def _add_mask(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--mask", metavar="auto|FILE|none", help="where to edit; a file is white there (default: auto with --word)"
    )
    group.add_argument("--threshold", type=float, default=0.5, help="probability of automatic masks (default: 0.5)")
    group.add_argument("--dilate", type=int, default=1, help="latent cells that a mask grows by (default: 1)")
    group.add_argument(
        "--on-empty-mask",
        choices=("error", "everywhere"),
        default="error",
        help="when the word is nowhere in the image (default: error)",
    )
    group.add_argument("--paste-back", action="store_true", help="put the image's own pixels back outside the mask")


def _add_sampling(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--method", choices=unmasked_methods(), default="iedit", help="how to edit (default: iedit)")
    group.add_argument("--strength", type=float, default=0.7, help="0 keeps the image, 1 hardly (default: 0.7)")
    group.add_argument("--guidance", type=float, default=7.5, help="how closely to follow the prompt (default: 7.5)")
    group.add_argument("--image-guidance", type=float, default=1.5, help="InstructPix2Pix: towards the image")
    group.add_argument("--sampler", choices=tuple(STEPS), default="ddim", help="default: ddim")
    group.add_argument("--steps", type=int, help="steps of the whole trajectory (default: 50, dpmsolver++ 20)")
    group.add_argument("-n", "--n", type=int, default=4, help="results (default: 4)")
    group.add_argument("--seed", type=int, default=0, help="of the first result; the next take the next (default: 0)")
    group.add_argument("--size", type=int, metavar="PIXELS", help="side of the model's canvas (default: its own)")
    group.add_argument(
        "--max-aspect", type=float, default=2.0, help="longest canvas; 1 is always a square (default: 2)"
    )


def _add_models(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--model", metavar="CKPT", help="checkpoint: a diffusers folder or hub id (default: the miniature's)"
    )
    group.add_argument("--model-revision", metavar="REV", help="branch, tag or commit of a hub id")
    group.add_argument(
        "--segmenter", metavar="CKPT", default=str(WEIGHTS / "segmenter"), help="CLIPSeg for automatic masks"
    )
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    group.add_argument("--dtype", choices=("auto", "fp32", "bf16", "fp16"), default="auto", help="default: auto")


COMMANDS = {"edit": Command(configure, run)}
