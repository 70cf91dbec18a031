"""Install the wheel of a folder into an empty environment and do the main jobs with it, in a folder of their own.

Usage: python .ci/wheel.py FOLDER. No constraints: what a stranger's ``pip install`` takes today.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

SITE = ("--set", "data.source.site.port=8977", "--set", "data.download.fetch.allowed_hosts=['127.0.0.1:8977']")
SMALL = (*SITE, "--set", "data.source.site.num_urls=1500")
PORT = 4977


def main() -> None:
    """Do all of it; the first command that fails ends it."""
    (wheel,) = Path(sys.argv[1]).glob("iedit-*.whl")
    with tempfile.TemporaryDirectory(prefix="iedit-wheel-") as name:
        folder = Path(name)
        _run([sys.executable, "-m", "venv", "--without-pip", "env"], folder)
        python = folder / "env" / "bin" / "python"
        _run(
            [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python), str(wheel.resolve())],
            folder,
        )
        has_backport = "import importlib.metadata as m; print([d.name for d in m.distributions(name='dataclasses')])"
        assert _run([str(python), "-c", has_backport], folder).strip() == "[]", "the dataclasses backport came along"
        iedit = str(python.with_name("iedit"))
        _run([iedit, "build", "--root", "data", *SMALL], folder)
        _run([iedit, "train", "--root", "data", "--steps", "4", "-o", "model"], folder)
        _run([iedit, "evalset", "make-real", "pairs"], folder)
        scene = str(next((folder / "pairs").rglob("*.png")))
        _run([iedit, "edit", scene, "a red train", "--model", "model/checkpoints/latest", "-o", "edits"], folder)
        _run([iedit, "evaluate", "--root", "data", "--checkpoint", "model", "--methods", "iedit,sdedit"], folder)
        _serve(iedit, folder)


def _run(command: Sequence[str], folder: Path) -> str:
    start = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=_environment(folder), capture_output=True, text=True, check=False)
    words = " ".join([Path(command[0]).name, *command[1:]])
    print(f"{time.monotonic() - start:6.1f} s  {words:.100}", flush=True)
    if done.returncode:
        sys.exit(f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def _serve(iedit: str, folder: Path) -> None:
    """Start ``iedit serve`` until it is ready, ask it for its deployments, and end it."""
    process = subprocess.Popen(
        [iedit, "serve", "--port", str(PORT)],
        cwd=folder,
        env=_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said = []
        for line in process.stdout or ():
            said.append(line)
            if line.startswith("Ctrl-C"):
                break
        else:
            sys.exit("".join(said[-20:]))
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}/api/deployments/count", data=b"{}", method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            assert int(answer.read()) == 12, "not all deployments are there"
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    assert process.returncode == 130, f"iedit serve ended with {process.returncode}"
    print("          iedit serve: 12 deployments")


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTHONPATH"))}
    return {**kept, "PREFECT_HOME": str(folder / "prefect"), "HF_HUB_OFFLINE": "1"}


if __name__ == "__main__":
    main()
