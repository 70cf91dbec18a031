"""Ask of every upper bound in pyproject.toml whether it holds a newer version back today, and whether it still must.

The newer version goes into a copy of the environment, and the tests that ``[tool.iedit.bounds]`` names run there.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
UPPER = re.compile(r",?<(?!=)[\d.]+")


def main() -> None:
    """Print one line per bound."""
    with tempfile.TemporaryDirectory(prefix="iedit-bounds-") as name:
        folder = Path(name)
        asked = [*PROJECT["project"]["dependencies"], *(one for extra in EXTRAS.values() for one in extra)]
        now = _resolved(asked, folder)
        newest = _resolved([UPPER.sub("", one) for one in asked], folder)
        for requirement in filter(UPPER.search, asked):
            package = re.split(r"[\[<>=]", requirement, maxsplit=1)[0]
            print(f"{requirement:<40} {_verdict(package, now[package], newest[package], folder)}", flush=True)


def _verdict(package: str, now: str, newest: str, folder: Path) -> str:
    if newest == now:
        return f"holds nothing back today ({now} is the newest)"
    tests = PROJECT["tool"]["iedit"]["bounds"].get(package)
    if tests is None:
        return f"holds {newest} back ({now}); no test is named for it in [tool.iedit.bounds]"
    env = folder / package
    _uv("venv", "--quiet", "--python", sys.executable, str(env))
    python = str(env / "bin" / "python")
    _uv("pip", "install", "--quiet", "--python", python, "--no-deps", "-r", str(ROOT / "constraints.txt"))
    _uv("pip", "install", "--quiet", "--python", python, "--no-deps", "--editable", str(ROOT))
    _uv("pip", "install", "--quiet", "--python", python, f"{package}=={newest}")
    done = subprocess.run(
        [python, "-m", "pytest", "-n0", *tests], cwd=ROOT, capture_output=True, text=True, check=False
    )
    words = done.stdout.strip().splitlines()[-1:] or ["no output"]
    return f"{'CAN GO' if done.returncode == 0 else 'still holds'}: with {newest} {words[0]}"


def _resolved(requirements: list[str], folder: Path) -> dict[str, str]:
    source = folder / "requirements.in"
    source.write_text("\n".join(requirements), encoding="utf-8")
    version = PROJECT["project"]["requires-python"].partition(",")[0].removeprefix(">=")
    text = _uv("pip", "compile", str(source), "--python-version", version, "--no-annotate", "--no-header", "--quiet")
    return dict(line.split("==") for line in text.splitlines() if "==" in line)


def _uv(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "uv", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return done.stdout


if __name__ == "__main__":
    main()
