"""``docs/paper_map.md`` names functions and tests that exist."""

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAPER_MAP = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`((?:iedit_model|tasks|flows|storage)\.[\w.]+)`", PAPER_MAP)))
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", PAPER_MAP)))


@pytest.mark.parametrize("name", NAMES)
def test_every_function_of_the_map_exists(name: str):
    module, _, attribute = name.rpartition(".")
    parent = importlib.import_module(module)
    assert hasattr(parent, attribute) or importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("test", TESTS)
def test_every_test_of_the_map_exists(test: str):
    path, _, function = test.partition("::")
    assert f"def {function}" in (ROOT / path).read_text(encoding="utf-8")


EQUATIONS = {
    int(digits)
    for row in re.findall(r"^\| (Eq\. [^,|]*)", PAPER_MAP, re.MULTILINE)
    for digits in re.findall(r"\d+", row)
}


@pytest.mark.parametrize("number", range(1, 14))
def test_every_equation_is_in_the_map(number: int):
    assert number in EQUATIONS
