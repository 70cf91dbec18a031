"""The two tokenizers of the family, trained on the world's words until each word is one token."""

from collections import Counter
from itertools import pairwise
from typing import Any

from tokenizers import pre_tokenizers
from transformers import BertTokenizer, CLIPTokenizer

from miniature.vocabulary import BACKGROUNDS, COLOURS, NOUNS

CONTEXT_LENGTH = 20
"""Tokens of a text, the two markers included; the longest caption of the world has 15."""

_END = "</w>"
_END_OF_TEXT = "<|endoftext|>"

_GLUE = (
    "a an the and on of in with to it is into by one two small large big picture photo photograph image drawing "
    "background plain left right middle next beside "
    "replace change make turn swap instead "
    "buy new free shipping shop sale toy gift set best cheap stock vector icon clipart art print item kids home"
)


def words() -> tuple[str, ...]:
    """Return every word that captions, edit prompts, instructions and most alt texts are made of."""
    return tuple(dict.fromkeys((*_GLUE.split(), *NOUNS, *COLOURS, *BACKGROUNDS)))


def build_clip_tokenizer() -> CLIPTokenizer:
    """Return a byte-level BPE tokenizer as CLIP's: one token a word of the world, unknown words in pieces.

    The end marker has the highest id (open_clip pools at the largest token) and also pads, as in Stable Diffusion.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _learn_merges(words())
    tokens = dict.fromkeys((*alphabet, *(f"{letter}{_END}" for letter in alphabet), *(a + b for a, b in merges)))
    vocabulary = {token: index for index, token in enumerate((*tokens, "<|startoftext|>", _END_OF_TEXT))}
    tokenizer_class: Any = CLIPTokenizer  # its annotation of ``merges`` is not what its documentation shows
    return tokenizer_class(vocab=vocabulary, merges=merges, model_max_length=CONTEXT_LENGTH, pad_token=_END_OF_TEXT)


def _learn_merges(corpus: tuple[str, ...]) -> list[tuple[str, str]]:
    """Learn byte-pair merges until every word is one token; ties go to the alphabet.

    The library's own trainer breaks ties by hash order, which gives other token ids in every process.
    """
    pieces = [[*word[:-1], word[-1] + _END] for word in corpus]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for word in pieces for pair in pairwise(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = [_merged(word, best) for word in pieces]
    return merges


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for piece in word:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return out


def build_bert_tokenizer() -> BertTokenizer:
    """Return a WordPiece tokenizer as BLIP's: the world's words, letters for the rest, and BLIP's two markers."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,'-!|"
    tokens = dict.fromkeys(
        ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words(), *letters, *(f"##{letter}" for letter in letters))
    )
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = BertTokenizer(vocab=vocabulary, model_max_length=CONTEXT_LENGTH)
    tokenizer.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]})
    return tokenizer
