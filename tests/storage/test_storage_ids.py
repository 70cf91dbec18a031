import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import FingerprintError, digest_of, fingerprint, folder_identity, sample_id, sample_seed

URL = "https://example.org/cat.jpg"
_parts = st.lists(st.text() | st.binary() | st.integers(), max_size=4)


@dataclass(frozen=True, kw_only=True)
class Config:
    size: int = 3
    name: str = "mini"


def test_golden_values_from_the_command_line_tools_of_coreutils():
    assert sample_id(URL) == "00f9aa00f684c45f09a0"  # printf URL | b2sum -l 80
    # printf 7/caption/0123456789abcdef0123 | b2sum -l 64
    assert sample_seed(7, "caption", "0123456789abcdef0123") == 0x2E5D53AFEC7E5E82 >> 1
    # printf 'str 1 abytes 2 bcint 2 42' | sha256sum
    assert digest_of("a", b"bc", 42) == "97d78c4f4fe2df6274d2bcd902f96ed03e6d9fbac086ac1287402d595af63758"


def test_a_fingerprint_is_the_hash_of_a_text_that_can_be_written_by_hand():
    config = '{"@":"Config","name":"mini","size":3}'
    text = f'["caption",1,{json.dumps(config)},["aa","bb"],"weights"]'
    expected = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    made = fingerprint(stage="caption", version=1, config=Config(), inputs=("aa", "bb"), weights_digest="weights")
    assert made == expected == "e9c766e8c69bc18b"  # printf %s TEXT | b2sum -l 64


def test_everything_that_decides_the_bytes_changes_the_fingerprint():
    base = {"stage": "caption", "version": 1, "config": Config(), "inputs": ("aa", "bb"), "weights_digest": "m"}
    changes = [
        {"stage": "swap"},
        {"version": 2},
        {"config": Config(size=4)},
        {"inputs": ("bb", "aa")},
        {"inputs": ("aabb",)},
        {"inputs": ()},
        {"weights_digest": None},
    ]
    made = {fingerprint(**(base | change)) for change in [{}, *changes]}
    assert len(made) == len(changes) + 1


@pytest.mark.parametrize("config", [None, {"size": 3}, Config, "mini"])
def test_only_a_frozen_dataclass_is_a_config(config: object):
    with pytest.raises(FingerprintError, match="must be a frozen dataclass"):
        fingerprint(stage="caption", version=1, config=config)


def test_one_string_is_not_taken_for_a_list_of_digests():
    with pytest.raises(FingerprintError, match="sequence of digests"):
        fingerprint(stage="caption", version=1, config=Config(), inputs="abc")


@given(st.text(min_size=1), st.text(min_size=1))
def test_two_urls_share_an_id_only_if_they_are_the_same(one: str, other: str):
    assert (sample_id(one) == sample_id(other)) == (one == other)


@given(st.integers(), st.text().filter(lambda name: "/" not in name), st.integers(0, 2**80 - 1))
def test_seeds_lie_in_the_range_that_every_generator_takes(run_seed: int, stage: str, number: int):
    stage = stage.encode("utf-8", "ignore").decode()
    seed = sample_seed(run_seed, stage, f"{number:020x}")
    assert 0 <= seed < 2**63
    assert seed == sample_seed(run_seed, stage, f"{number:020x}")


def test_seeds_differ_between_runs_stages_and_samples():
    seeds = {sample_seed(run, stage, name) for run in range(4) for stage in ("swap", "mask") for name in ("aa", "bb")}
    assert len(seeds) == 16


@pytest.mark.parametrize(("stage", "name"), [("a/b", "c"), ("a", "b/c")])
def test_a_slash_that_would_make_two_samples_one_is_refused(stage: str, name: str):
    with pytest.raises(FingerprintError, match="slash"):
        sample_seed(1, stage, name)


@pytest.mark.parametrize("url", ["", None, 3])
def test_a_sample_without_a_url_has_no_id(url: str):
    with pytest.raises(FingerprintError, match="URL"):
        sample_id(url)


@given(_parts, _parts)
def test_a_digest_knows_the_borders_and_types_of_its_parts(
    one: list[str | bytes | int], other: list[str | bytes | int]
):
    assert (digest_of(*one) == digest_of(*other)) == ([(type(x), x) for x in one] == [(type(x), x) for x in other])


def test_a_digest_of_anything_else_is_refused():
    with pytest.raises(FingerprintError, match="float"):
        digest_of(1.5)  # pyright: ignore[reportArgumentType] -- the refusal is what is tested
    with pytest.raises(FingerprintError, match="bool"):
        digest_of(True)


def _model(folder: Path, weights: bytes = b"weights") -> Path:
    (folder / "vae").mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")
    (folder / "vae" / "model.safetensors").write_bytes(weights)
    return folder


def test_a_models_identity_follows_from_its_files_and_not_from_its_place(tmp_path: Path):
    here, there, other = _model(tmp_path / "here"), _model(tmp_path / "there"), _model(tmp_path / "other", b"Weights")
    (there / ".cache").mkdir()
    (there / ".cache" / "lock").write_bytes(b"x")
    assert folder_identity(here) == folder_identity(there)
    assert folder_identity(here) != folder_identity(other)
    (there / "config.json").rename(there / "settings.json")
    assert folder_identity(here) != folder_identity(there)
    with pytest.raises(FingerprintError, match="holds no file"):
        folder_identity(tmp_path / "none")
