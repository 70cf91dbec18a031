"""Models come from folders or hub ids, in safetensors only, and are told apart by their content."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from iedit_model.errors import ConfigError, MissingModelError, PickledWeightsError, WeightsError
from iedit_model.models.source import ModelSource, loaded_once, model_folder, weights_digest
from storage import canonical_json

OFFLINE_ID = "nobody/no-such-model"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "text").mkdir(parents=True)
    (made / "config.json").write_text('{"a": 1}')
    save_file({"weight": np.arange(6, dtype=np.float32)}, made / "model.safetensors")
    (made / "text" / "vocab.txt").write_text("a\nb\n")
    return made


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, offline."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "text/vocab.txt"])
def test_one_changed_byte_makes_another_identity(folder, name):
    before = weights_digest(ModelSource(str(folder)))
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    assert weights_digest(ModelSource(str(folder))) != before


def test_a_renamed_file_makes_another_identity(folder):
    before = weights_digest(ModelSource(str(folder)))
    (folder / "text" / "vocab.txt").rename(folder / "vocab.txt")
    assert weights_digest(ModelSource(str(folder))) != before


def test_neither_place_nor_notes_nor_hidden_files_change_the_identity(folder, tmp_path):
    before = weights_digest(ModelSource(str(folder)))
    shutil.copytree(folder, tmp_path / "elsewhere" / "copy")
    (tmp_path / "elsewhere" / "copy" / "README.md").write_text("notes")
    (tmp_path / "elsewhere" / "copy" / ".cache").mkdir()
    (tmp_path / "elsewhere" / "copy" / ".cache" / "lock.json").write_text("{}")
    assert weights_digest(ModelSource(str(tmp_path / "elsewhere" / "copy"))) == before
    assert len(before) == 64


def test_a_source_leaves_no_trace_in_a_configuration(folder):
    assert canonical_json(ModelSource(str(folder))) == canonical_json(ModelSource("owner/name", "main"))


def test_an_unreachable_hub_id_is_one_line_that_says_what_to_do(hub_cache):
    with pytest.raises(MissingModelError) as caught:
        weights_digest(ModelSource(OFFLINE_ID, "v1"))
    message = str(caught.value)
    assert "\n" not in message
    assert OFFLINE_ID in message
    assert "revision v1" in message
    assert "HF_HUB_OFFLINE" in message
    assert "local copy" in message


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./models/blip", "blip", "a/b/c", "-x/y"])
def test_a_path_that_is_not_there_is_not_taken_for_a_hub_id(hub_cache, name):
    with pytest.raises(MissingModelError, match="no folder here and no hub id"):
        model_folder(ModelSource(name))


@pytest.mark.parametrize("name", ["owner/model", "hf-hub:owner/model"])
def test_a_hub_id_is_found_in_the_cache_when_offline(folder, hub_cache, name):
    repository = hub_cache / "models--owner--model"
    shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    assert model_folder(ModelSource(name)) == (repository / "snapshots" / ("0" * 40)).resolve()
    assert weights_digest(ModelSource(name)) == weights_digest(ModelSource(str(folder)))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "tf_model.h5"])
def test_pickled_weights_are_refused(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(PickledWeightsError, match=name):
        weights_digest(ModelSource(str(folder)))


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"no \.safetensors file"):
        model_folder(ModelSource(str(folder)))


def test_a_missing_part_of_the_weights_is_named(folder):
    index = {"weight_map": {"weight": "model.safetensors", "bias": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=r"lacks model-00002\.safetensors"):
        model_folder(ModelSource(str(folder)))


def test_a_broken_list_of_weights_is_an_error(folder):
    (folder / "model.safetensors.index.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot be read as JSON"):
        model_folder(ModelSource(str(folder)))


@given(st.text(max_size=3).filter(lambda name: not name.isprintable() or not name))
def test_an_unprintable_name_is_refused(name):
    with pytest.raises(ConfigError):
        ModelSource(name)


def test_threads_that_ask_at_once_load_once():
    loads = []
    started = threading.Barrier(4)

    @loaded_once
    def load(spec: str) -> object:
        loads.append(spec)
        return object()

    def ask(spec: str) -> object:
        started.wait(timeout=30)
        return load(spec)

    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(ask, ["a", "a", "a", "b"]))
    assert sorted(loads) == ["a", "b"]
    assert models[0] is models[1] is models[2]
    assert models[0] is not models[3]


def test_a_path_is_never_asked_of_a_hub(hub_cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "x.safetensors").write_bytes(b"x")
    (tmp_path / "models" / "plain").write_bytes(b"x")
    (tmp_path / "models" / "broken").symlink_to("nowhere")
    said = {"x.safetensors": "single file", "plain": "single file", "broken": "no folder", "y.CKPT": "not there"}
    for name, words in said.items():
        with pytest.raises(MissingModelError, match=f"models/{name} is {words}|models/{name} is a {words}"):
            model_folder(ModelSource(f"models/{name}"))
    assert not hub_cache.exists()
