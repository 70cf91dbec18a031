"""What damaged and hostile files cost: ``python -m benchmarks.bench_hostile --count 10000``.

Every reader of something from outside is fed good inputs that a seeded generator damaged: flipped bits, cuts, repeated
and exchanged parts, numbers out of range, nesting. An input is taken or refused by an error of ours; anything else that
is raised is *unexpected*, and so is more time or memory than a reader may take. Each reader runs in a process of its
own, so that one which dies is seen. The exit code is 1 when anything was unexpected; ``--keep FOLDER`` keeps these.
"""

import argparse
import hashlib
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.hostile_readers import READERS, our_errors
from benchmarks.report import CONSOLE, print_provenance, print_rows

MOST_S: Final = 30.0
"""Longest that one input may take, seconds."""
_KEPT_S: Final = 3.0
MOST_MIB: Final = 2048
"""Most that a reader's memory may grow over all inputs, MiB."""


@dataclass(kw_only=True)
class Outcome:
    """What became of a reader's inputs."""

    count: int = 0
    taken: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    grown_mib: int = 0
    seconds: float = 0.0


def main() -> None:
    """Feed every reader and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="inputs a reader (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", choices=READERS, help="only this one; may be given several times")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep unexpected inputs and their tracebacks here")
    parser.add_argument("--as-child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.reader or list(READERS)
    if options.as_child:
        print(json.dumps(vars(feed(names[0], options.count, seed=options.seed, keep=options.keep))))
        return
    print_provenance("hostile inputs")
    outcomes = {name: _in_child(name, options) for name in names}
    header = ("reader", "inputs", "taken", "refused", "unexpected", "slowest, s", "memory, MiB", "ms an input")
    print_rows(header, [_row(name, found) for name, found in outcomes.items()])
    for name, found in outcomes.items():
        for what, count in found.unexpected.most_common():
            CONSOLE.print(f"{name}: {count} x {what}", markup=False)
    sys.exit(any(is_bad(found) for found in outcomes.values()))


def is_bad(found: Outcome) -> bool:
    """Return whether something came out that should not have."""
    return bool(found.unexpected) or found.slowest_s > MOST_S or found.grown_mib > MOST_MIB


def feed(name: str, count: int, *, seed: int = 0, keep: Path | None = None) -> Outcome:
    """Return what a reader made of ``count`` damaged inputs."""
    rng, outcome = random.Random(f"{name}/{seed}"), Outcome()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="iedit-hostile-") as folder, READERS[name](Path(folder)) as (seeds, read):
        for good in seeds:
            read(good)  # what is whole is taken
        before = _peak_mib()
        for _ in range(count):
            data = damaged(rng.choice(seeds), rng, seeds)
            began = time.perf_counter()
            with _judged(outcome, data, keep):
                read(data)
            took_s = time.perf_counter() - began
            outcome.slowest_s = max(outcome.slowest_s, round(took_s, 2))
            if keep is not None and took_s > _KEPT_S:
                _keep(keep, data, f"{took_s:.1f} s")
            outcome.count += 1
        outcome.grown_mib = _peak_mib() - before
    outcome.seconds = round(time.perf_counter() - start, 1)
    return outcome


@contextmanager
def _judged(outcome: Outcome, data: bytes, keep: Path | None) -> Iterator[None]:
    try:
        yield
    except our_errors() as error:
        outcome.refused[type(error).__name__] += 1
    except Exception as error:  # noqa: BLE001 - finding what nobody expected is the purpose
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
        at = frames[-1]
        what = f"{type(error).__name__} at {Path(at.filename).name}:{at.lineno}: {str(error)[:100]}"
        outcome.unexpected[what] += 1
        if keep is not None:
            _keep(keep, data, "".join(traceback.format_exception(error)))
    else:
        outcome.taken += 1


def _keep(folder: Path, data: bytes, why: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(data).hexdigest()[:16]
    (folder / digest).write_bytes(data)
    (folder / f"{digest}.txt").write_text(why, encoding="utf-8")


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def _in_child(name: str, options: argparse.Namespace) -> Outcome:
    command = [sys.executable, "-m", "benchmarks.bench_hostile", "--as-child", "--reader", name]
    command += ["--count", str(options.count), "--seed", str(options.seed)]
    command += ["--keep", str(options.keep)] if options.keep else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    with suppress(ValueError, IndexError):
        values = json.loads(done.stdout.splitlines()[-1])
        return Outcome(**{**values, "refused": Counter(values["refused"]), "unexpected": Counter(values["unexpected"])})
    return Outcome(unexpected=Counter([f"the process ended with code {done.returncode}: {done.stderr[-500:]}"]))


def _row(name: str, found: Outcome) -> tuple[str, ...]:
    numbers = (found.count, found.taken, found.refused.total(), found.unexpected.total())
    cost = 1000 * found.seconds / max(1, found.count)
    return (name, *(f"{number:,}" for number in numbers), f"{found.slowest_s:g}", f"{found.grown_mib:,}", f"{cost:.1f}")


# How inputs are damaged.

_NUMBERS: Final = (b"-1", b"-5", b"0", b"9" * 25, b"1e999", b"NaN", b"0x10", b"2147483648", b"null", b"1" * 5000)
_BITS: Final = (b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\xff\xff\xff\xff", b"\x80", b"\xc3\x28")
_NESTS: Final = (b"[", b'{"a":', b"(", b"- ", b"<", b"{")


def damaged(good: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Return an input with one to four faults."""
    data = bytearray(good)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(_FAULTS)(data, rng, others)
    return bytes(data)


def _span(data: bytearray, rng: random.Random) -> slice:
    # Short spans mostly, and more often near the head, where lengths and types stand.
    start = rng.randrange(len(data) + 1) if rng.random() < 0.5 else rng.randrange(min(len(data), 600) + 1)
    return slice(start, start + int(2 ** rng.uniform(0, 10)))


def _flip(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    for position in (_span(data, rng).start for _ in range(rng.randint(1, 6))):
        if position < len(data):
            data[position] ^= 1 << rng.randrange(8)


def _cut(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    del data[_span(data, rng).start :]


def _drop(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    del data[_span(data, rng)]


def _repeat(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    span = _span(data, rng)
    part = data[span]
    data[span.start : span.start] = part * min(rng.randint(1, 200), 200_000 // max(1, len(part)))


def _exchange(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    other = rng.choice(others)
    data[_span(data, rng)] = other[_span(bytearray(other), rng)]


def _insert(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    start = _span(data, rng).start
    data[start : start + rng.choice((0, 1, 4))] = rng.choice(_BITS)


def _number(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    places = [position for position, byte in enumerate(data[:20_000]) if 48 <= byte <= 57]
    if places:
        start = rng.choice(places)
        data[start : start + rng.randint(1, 3)] = rng.choice(_NUMBERS)


def _nest(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    start = _span(data, rng).start
    data[start:start] = rng.choice(_NESTS) * int(2 ** rng.uniform(0, 14))


_FAULTS: Final = (_flip, _cut, _drop, _repeat, _exchange, _insert, _number, _nest)


if __name__ == "__main__":
    main()
