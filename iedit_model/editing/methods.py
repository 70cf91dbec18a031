"""The editing methods by name, each registered in its own file. Imports no torch, so that a command can list them."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar

from iedit_model.errors import ConfigError

if TYPE_CHECKING:
    from iedit_model.editing.editor import Editor

METHODS: Final[dict[str, str]] = {
    "sdedit": "latent_editor",
    "sdedit_m": "latent_editor",
    "instruct_pix2pix": "instruct_editor",
    "inpaint": "latent_editor",
    "diffedit": "diffedit",
    "iedit": "latent_editor",
    "iedit_m": "latent_editor",
    "copy_source": "references",
    "vae_round_trip": "latent_editor",
    "masked_noise": "references",
}
"""Method -> file of this package (or module) that registers it, in the order of the tables: a new method adds its line.

``NAME_m`` is the masked form of ``NAME``: the same weights with Eq. 13. ``sdedit_m`` is the control that tells the
mask's part from the training's; ``inpaint`` (the base model, started from noise inside the mask) plays the part of
DALL-E 2 in the paper.
"""


class EditorSpec(Protocol):
    """A method with its weights and settings, as a value that can be sent to another process."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...


Weights = Literal["none", "base", "tuned", "instruct"]
Build = TypeVar("Build", bound=Callable[..., Any])
EditorClass = TypeVar("EditorClass", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True, slots=True)
class EditingMethod:
    """What a method's file says about it."""

    name: str
    title: str
    """What tables call it."""
    weights: Weights
    """Which of ``EditorModels`` it edits with; a method with ``tuned`` weights takes part once per training."""
    needs_mask: bool
    """Whether it edits inside a mask and cannot do without."""
    is_reference: bool
    """Whether it frames a comparison and is no competitor in a table."""
    is_evaluated: bool
    """Whether evaluations run it unless told otherwise."""
    gets_set_masks: bool
    """Whether evaluations give it the set's masks, as the paper does for DALL-E 2."""
    build: Callable[..., Any]
    """Returns its spec from ``EditorModels`` and ``EditorSettings``."""


_REGISTERED: dict[str, EditingMethod] = {}
_EDITORS: dict[type, Callable[[Any], "Editor"]] = {}


def editing_method(
    name: str,
    *,
    title: str,
    weights: Weights = "none",
    needs_mask: bool = False,
    is_reference: bool = False,
    is_evaluated: bool = True,
    gets_set_masks: bool = False,
) -> Callable[[Build], Build]:
    """Register a function of (``EditorModels``, ``EditorSettings``) as what makes a method's spec.

    Commands, plans and tables know the method from then on; the arguments are the fields of ``EditingMethod``.

    Raises:
        ConfigError: another function has the name.
    """

    def register(build: Build) -> Build:
        if name in _REGISTERED:
            raise ConfigError(f"a method is called {name!r} already: choose another name")
        _REGISTERED[name] = EditingMethod(
            name=name,
            title=title,
            weights=weights,
            needs_mask=needs_mask,
            is_reference=is_reference,
            is_evaluated=is_evaluated,
            gets_set_masks=gets_set_masks,
            build=build,
        )
        METHODS.setdefault(name, build.__module__)
        return build

    return register


def edits_with(spec: type) -> Callable[[EditorClass], EditorClass]:
    """Register a class as the editor of a spec: it is made with the spec as its one argument."""

    def register(editor: EditorClass) -> EditorClass:
        _EDITORS[spec] = editor
        return editor

    return register


def unregister(name: str) -> None:
    """Take a method away again."""
    _REGISTERED.pop(name, None)
    METHODS.pop(name, None)


def method_info(name: str) -> EditingMethod:
    """Return what is registered about a method; loads its file, and torch with it.

    Raises:
        ConfigError: an unknown method.
    """
    if name not in METHODS:
        raise ConfigError(f"the method {name!r} is unknown; there are {', '.join(METHODS)}")
    if name not in _REGISTERED:
        import_module(f"iedit_model.editing.{METHODS[name]}")
    return _REGISTERED[name]


def all_methods() -> list[EditingMethod]:
    """Return every method in the order of the tables."""
    return [method_info(name) for name in METHODS]


def masked_form(name: str) -> str | None:
    """Return the method that does the same inside a mask, or None."""
    return f"{name}_m" if f"{name}_m" in METHODS else None


def unmasked_methods() -> list[str]:
    """Return the methods that are no masked form of another; imports nothing."""
    masked = {masked_form(name) for name in METHODS}
    return [name for name in METHODS if name not in masked]


def build_editor(spec: EditorSpec) -> "Editor":
    """Return the editor of a spec; its models are loaded at the first request.

    Raises:
        WeightsError: a model cannot be had; the message says what to do.
        ConfigError: the device is not there.
    """
    return _EDITORS[type(spec)](spec)
