"""The tokenizers: one token a word, and the same ids in every process, since every member shares them."""

import os
import subprocess
import sys

import pytest

from miniature.family.tokenizers import CONTEXT_LENGTH, build_bert_tokenizer, build_clip_tokenizer, words
from miniature.world import World

_PRINT_DIGEST = (
    "import hashlib; from miniature.family.tokenizers import build_clip_tokenizer as build;"
    "print(hashlib.sha256(repr(sorted(build().get_vocab().items())).encode()).hexdigest())"
)


def test_every_word_of_the_world_is_one_token():
    clip, bert = build_clip_tokenizer(), build_bert_tokenizer()
    assert [word for word in words() if len(clip(word).input_ids) != 3] == []
    assert [word for word in words() if len(bert(word).input_ids) != 3] == []


def test_every_caption_fits_and_survives_the_way_through_the_ids():
    clip, bert = build_clip_tokenizer(), build_bert_tokenizer()
    for index in range(200):
        text = World(1).scene(index).captions()[1]
        ids = clip(text).input_ids
        assert len(ids) <= CONTEXT_LENGTH
        assert clip.decode(ids, skip_special_tokens=True) == text
        assert bert.decode(bert(text).input_ids, skip_special_tokens=True) == text


def test_an_unknown_word_falls_into_pieces_and_comes_back():
    clip = build_clip_tokenizer()
    ids = clip("a red zebra").input_ids
    assert len(ids) > 5
    assert clip.decode(ids, skip_special_tokens=True) == "a red zebra"


def test_the_end_marker_has_the_highest_id_because_open_clip_pools_there():
    clip = build_clip_tokenizer()
    assert clip.eos_token_id == max(clip.get_vocab().values()) == clip.pad_token_id


@pytest.mark.slow
def test_the_ids_do_not_depend_on_the_hash_seed():
    digests = {
        subprocess.run(
            [sys.executable, "-c", _PRINT_DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(digests) == 1
