"""Walls that the import contracts of pyproject.toml cannot express: cycles, long files, functions without a caller."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from tasks.stages import stage_names

ROOT = Path(__file__).parents[1]
CORE = ("flows", "tasks", "iedit_model", "storage")
PRODUCT = (*CORE, "miniature")
MAX_LINES = 400

MODULE_CYCLES = {frozenset({"tasks.pack.plan", "tasks.pack.stage"})}
"""Modules that import each other today, all of them inside functions. May only shrink."""

ROOM_CYCLES = {
    ("iedit_model.editing", "iedit_model.models"),
    ("iedit_model.masks", "iedit_model.training"),
    ("iedit_model.models", "iedit_model.training"),
}
"""Rooms that import each other today. May only shrink."""

PUBLIC_API = {
    "IEditPipeline",
}
"""Documented for users of the library; nothing of the product needs them."""

CALLED_BY_LIBRARIES = {"do_POST", "forward", "iedit_open", "log_message", "makefile", "readinto"}
"""Methods that torch, http.server, urllib or a reader of a stream call by their names."""

UNCALLED = {
    "embed_images",
    "ssim_map",
    "DifferentiableClip.embed_images",
    "contribution_gradient_norms",
    "train_step",
    "Files.remove_tree",
    "HostSlots.num_hosts",
    "latest_download",
    "metric_versions",
    "mse_and_psnr",
    "unregister",
    "from_values",
    "layout_descriptor",
    "release_index",
    "swap_caption",
    "Learner.num_parameters",
}
"""What only tests call today. May only shrink: what is here goes, or finds a caller."""


def test_modules_that_import_each_other_only_become_fewer():
    # Imports inside functions count: they hide a cycle and do not undo it.
    assert _cycles(_imports()) <= MODULE_CYCLES


def test_rooms_that_import_each_other_only_become_fewer():
    rooms = {
        (_room(module), _room(target))
        for module, targets in _imports().items()
        for target in targets
        if _room(module) != _room(target)
    }
    assert {(one, other) for one, other in rooms if one < other and (other, one) in rooms} <= ROOM_CYCLES


def test_storage_names_no_stage():
    own = [path for module, path in _modules().items() if _room(module).startswith("storage")]
    words = {word for path in own for word in (*_strings(path), *filter(str.isupper, _names(path)))}
    assert {word for word in words if word.lower() in stage_names()} == set()


def test_no_file_of_the_core_is_long():
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in _modules().items()}
    assert {module: length for module, length in lengths.items() if length > MAX_LINES and _is_core(module)} == {}


def test_everything_public_has_a_caller():
    names = _named_by_the_product() | CALLED_BY_LIBRARIES
    nowhere = {name for name in _public_names() if name.rpartition(".")[2] not in names}
    assert nowhere - PUBLIC_API - UNCALLED == set()


@cache
def _modules() -> Mapping[str, Path]:
    """Return name -> file of every module of the product."""
    files = [path for package in PRODUCT for path in sorted((ROOT / package).rglob("*.py"))]
    parts = {path: path.relative_to(ROOT).with_suffix("").parts for path in files}
    return {".".join(own[:-1] if own[-1] == "__init__" else own): path for path, own in parts.items()}


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _imports() -> Mapping[str, set[str]]:
    """Return module -> modules of the product that it imports, those for type checkers left out."""
    modules, found = _modules(), defaultdict(set)
    for module, path in modules.items():
        for name in _imported(_tree(path)):
            target = name if name in modules else name.rpartition(".")[0]
            if target in modules and target != module:
                found[module].add(target)
    return found


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            yield from _imported(node)


def _cycles(imports: Mapping[str, set[str]]) -> set[frozenset[str]]:
    """Return the sets of modules that reach each other."""
    reached = {module: _reached(module, imports) for module in imports}
    loops = {module: frozenset(one for one in reached[module] if module in reached.get(one, ())) for module in imports}
    return {loop for loop in loops.values() if loop}


def _reached(start: str, imports: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [*imports[start]]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += imports.get(module, ())
    return found


def _room(module: str) -> str:
    return ".".join(module.split(".")[: 2 if _is_core(module) else 1])


def _is_core(module: str) -> bool:
    return module.split(".", 1)[0] in CORE


def _public_names() -> Iterator[str]:
    """Yield ``function``, ``Class`` and ``Class.method`` of the core whose own name is public."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for module, path in _modules().items():
        for node in _tree(path).body if _is_core(module) else ():
            if isinstance(node, kinds) and not node.name.startswith("_") and not _is_registered(node):
                yield node.name
            if isinstance(node, ast.ClassDef):
                members = [
                    member.name for member in node.body if isinstance(member, kinds) and not _is_registered(member)
                ]
                yield from (f"{node.name}.{name}" for name in members if not name.startswith("_"))


def _is_registered(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """Return whether a decorator with arguments hands it on: ``@edits_with(Spec)``, pydantic's ``@field_validator``."""
    calls = [decorator.func for decorator in node.decorator_list if isinstance(decorator, ast.Call)]
    return any(
        not isinstance(function, ast.Name) or function.id not in ("dataclass", "lru_cache") for function in calls
    )


def _named_by_the_product() -> set[str]:
    """Return all that the product names: by a name, an attribute or a string of its code, or as a deployment."""
    found = set(re.findall(r"\w+", (ROOT / "prefect.yaml").read_text(encoding="utf-8")))
    return found.union(*(_names(path) | _strings(path) for path in _modules().values()))


def _names(path: Path) -> set[str]:
    nodes = list(ast.walk(_tree(path)))
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return attributes | {node.id for node in nodes if isinstance(node, ast.Name)}


def _strings(path: Path) -> set[str]:
    constants = (node.value for node in ast.walk(_tree(path)) if isinstance(node, ast.Constant))
    return {value for value in constants if isinstance(value, str)}
