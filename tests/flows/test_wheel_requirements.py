"""What a plain ``pip install`` of our wheel brings along: all that img2dataset needs, and not what harms."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
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
    assert {"cpu", "gpu", "s3", "ray", "dev"} <= extras
    assert "torch" in _closure(wheel, frozenset())
    assert {"img2dataset", "dataclasses"} & _closure(wheel, extras) == set()


def test_all_that_img2dataset_needs_but_the_backport_comes_with_the_wheel(wheel: metadata.PathDistribution) -> None:
    ours = {canonicalize_name(requirement.name) for requirement in _needed(wheel)}
    theirs = {canonicalize_name(requirement.name) for requirement in _needed(metadata.distribution("img2dataset"))}
    assert theirs - ours == {"dataclasses"}


def test_the_dataclasses_in_use_are_the_standard_librarys() -> None:
    program = "import dataclasses, sysconfig; print(dataclasses.__file__.startswith(sysconfig.get_path('stdlib')))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "True"
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.distribution("dataclasses")
