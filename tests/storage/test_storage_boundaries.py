import pkgutil
import resource
import subprocess
import sys
from pathlib import Path

import storage

HEAVY = ("torch", "transformers", "prefect", "ray", "faiss", "pyarrow", "fsspec", "numpy", "pandas", "PIL", "asyncio")


def test_importing_every_module_loads_nothing_heavy_and_takes_little_time():
    names = ["storage", *(f"storage.{module.name}" for module in pkgutil.iter_modules(storage.__path__))]
    assert len(names) > 15
    code = f"""
import importlib, sys
for name in {names!r}:
    importlib.import_module(name)
print(*[name for name in {HEAVY!r} if name in sys.modules])
"""
    start = _children_s()
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
    assert _children_s() - start < 1.0  # CPU seconds, interpreter included; pyarrow alone would take more


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_using_the_store_loads_neither_torch_nor_an_orchestrator(tmp_path: Path):
    code = f"""
import sys
from storage import (Files, ShardStore)
from tasks.caption import CAPTION
target = ShardStore.at({str(tmp_path)!r}).target("caption", "0", "0" * 16)
report = target.commit(table=CAPTION.table([]), num_in=0, seconds=0)
ShardStore.at({str(tmp_path)!r}).read_table(report)
Files("memory://x").write_bytes("a", b"")
print(*[name for name in {HEAVY[:5]!r} if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_the_public_names_are_all_there_sorted_and_documented():
    assert len(set(storage.__all__)) == len(storage.__all__)
    for name in storage.__all__:
        public = getattr(storage, name)
        if callable(public) and hasattr(public, "__module__") and public.__module__.startswith("storage"):
            assert public.__doc__, name
