"""What a plain ``pip install`` of our wheel brings along, and what it must not."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> metadata.PathDistribution:
    """Have the build backend make the metadata of the wheel, without its packages."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "README.md", "LICENSE", "THIRD_PARTY_NOTICES.md"):
        shutil.copy(ROOT / name, source)
    program = f"from setuptools import build_meta; build_meta.prepare_metadata_for_build_wheel({str(built)!r})"
    subprocess.run([sys.executable, "-c", program], cwd=source, check=True, capture_output=True)
    [folder] = built.glob("*.dist-info")
    return metadata.PathDistribution(folder)


def _needed(distribution: metadata.Distribution, extras: frozenset[str] = frozenset()) -> Iterator[Requirement]:
    for text in distribution.requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def _closure(distribution: metadata.Distribution, extras: frozenset[str]) -> set[str]:
    """Return the names of all that pip would install for ``distribution[extras]``, as far as it is installed here."""
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = list(_needed(distribution, extras))
    while todo:
        requirement = todo.pop()
        name, wanted = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        found.add(name)
        try:
            todo += _needed(metadata.distribution(name), wanted)
        except metadata.PackageNotFoundError:
            continue
    return found


def test_no_way_to_install_the_wheel_brings_the_dataclasses_backport(wheel: metadata.PathDistribution) -> None:
    extras = frozenset(wheel.metadata.get_all("Provides-Extra") or ())
    assert {"s3", "ray", "dev"} <= extras
    assert {"torch", "faiss-cpu"} <= _closure(wheel, frozenset())
    assert "faiss-gpu-cuvs" not in _closure(wheel, extras), "it overwrites the folder of faiss-cpu"
    assert {"img2dataset", "dataclasses"} & _closure(wheel, extras) == set()


CARRIED = {
    "downloader.py": "da5e8b296d63e1ac4b903b4176f7cf44ca88b5f345ac5543c158cab78d48935a",
    "logger.py": "f78084fa3a48990b75b218d02bd43bf6f8568cd9b79fac345a8e9a02fb9076a8",
}
"""Sums of the modules in the wheel of img2dataset 1.47.0, as its RECORD has them."""


def test_what_is_carried_of_img2dataset_is_as_it_was_published() -> None:
    folder = ROOT / "third_party" / "img2dataset"
    found = {path.name: _sum(path) for path in folder.glob("*.py")}
    found.pop("__init__.py")
    assert found == CARRIED
    assert "Romain Beaumont" in (folder / "LICENSE").read_text()
    if (package := find_spec("img2dataset")) is not None and package.origin is not None:  # not on Python 3.13
        assert {name: _sum(Path(package.origin).with_name(name)) for name in CARRIED} == CARRIED


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_dataclasses_in_use_are_the_standard_librarys() -> None:
    program = "import dataclasses, sysconfig; print(dataclasses.__file__.startswith(sysconfig.get_path('stdlib')))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "True"
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.distribution("dataclasses")
