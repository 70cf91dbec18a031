"""The command line answers at once, and a profile is made without a network, a model library or an orchestrator."""

import json
import os
import resource
import subprocess
import sys

import pytest

from flows import DEFAULTS
from flows.cli.main import COMMANDS

HEAVY = ("torch", "transformers", "open_clip", "faiss", "nltk", "prefect", "ray", "img2dataset", "sklearn")
_WATCHED = """
import json, sys

def refuse(event, arguments):
    if event.startswith("socket.") and event != "socket.__new__":
        raise RuntimeError(event)

sys.addaudithook(refuse)
try:
    {code}
except SystemExit:
    pass
print(json.dumps([name for name in {heavy!r} if name in sys.modules]), file=sys.stderr)
"""


def _heavy_after(code: str) -> list[str]:
    """Return which heavy libraries a fresh interpreter has loaded after ``code``; any use of a socket is an error."""
    program = _WATCHED.format(code=code, heavy=HEAVY)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stderr.splitlines()[-1])


@pytest.mark.parametrize("profile", ["mini", "sd14"])
def test_a_profile_is_made_without_network_and_heavy_libraries(profile):
    assert (
        _heavy_after(f"from flows.config.profiles import resolve; resolve({profile!r}, {{'data.mask.threshold': 0.3}})")
        == []
    )


def test_the_watch_itself_sees_what_is_loaded():
    assert _heavy_after("import faiss") == ["faiss"]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_nothing_heavy(command):
    arguments = [*command.split(), "--help"]
    assert _heavy_after(f"from flows.cli.main import main; main({arguments!r})") == []


def test_help_takes_less_than_half_a_second():
    # Processor time, the least of three: the clock on the wall says how busy the machine is.
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "flows.cli.main", "build", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(took) < 0.5


def test_telemetry_is_off_unless_the_user_turned_it_on():
    program = "import flows, os, json; print(json.dumps(dict(os.environ)))"
    bare = {name: value for name, value in os.environ.items() if name not in DEFAULTS}
    for given in ({}, {"DO_NOT_TRACK": "0"}):
        shown = subprocess.check_output([sys.executable, "-c", program], env=bare | given)
        expected = {**DEFAULTS, **given}
        assert {name: value for name, value in json.loads(shown).items() if name in expected} == expected
