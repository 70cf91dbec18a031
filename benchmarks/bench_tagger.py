"""Which tagger finds the nouns and adjectives of captions: ``python -m benchmarks.bench_tagger`` (one core).

Precision and recall against ``tests/assets/tagged_captions.jsonl``. Ours was tuned on the half "dev"; the half "test"
was looked at for the final figures alone. TextBlob and HanTa take part where they are installed
(``pip install textblob HanTa``); they are no dependencies of this project. A word whose gold tag allows several
readings ("framed": adjective or participle) counts neither for nor against an allowed one.
"""

import argparse
import importlib
import importlib.util
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.report import print_provenance, print_rows
from tasks.swap.tagger import load_tagger
from tasks.swap.wordnet import PARTS, load_wordnet

CAPTIONS = Path(__file__).parents[1] / "tests" / "assets" / "tagged_captions.jsonl"
COUNTED = ("NOUN", "ADJ")
TagWords = Callable[[list[str]], Sequence[str]]


class Row(NamedTuple):
    """One caption tagged by hand."""

    words: list[str]
    tags: list[str]


def main() -> None:
    """Score every tagger that is here and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that are timed")
    options = parser.parse_args()
    print_provenance(f"taggers on the split {options.split!r}")
    rows = _read(options.split)
    table = []
    for name, tag_words in _candidates():
        scores = _scores(rows, tag_words)
        began = time.process_time()
        for _ in range(options.repeats):
            for row in rows:
                tag_words(row.words)
        rate = options.repeats * len(rows) / max(time.process_time() - began, 1e-9)
        table.append((name, *(f"{scores[tag, what]:.3f}" for tag in COUNTED for what in ("P", "R")), f"{rate:.0f}"))
    print_rows(("tagger", "noun P", "noun R", "adj. P", "adj. R", "captions per CPU second"), table)


def _read(split: str) -> list[Row]:
    records = [json.loads(line) for line in CAPTIONS.read_text(encoding="utf-8").splitlines()]
    return [Row(record["tokens"], record["tags"]) for record in records if record["split"] == split]


def _scores(rows: Sequence[Row], tag_words: TagWords) -> dict[tuple[str, str], float]:
    right, gold, found = Counter[str](), Counter[str](), Counter[str]()
    for row in rows:
        for allowed, tag in zip((tags.split("|") for tags in row.tags), tag_words(row.words), strict=True):
            if len(allowed) == 1:
                gold[allowed[0]] += 1
                right[allowed[0]] += tag == allowed[0]
            # A name is a noun for taggers that do not tell them apart.
            as_name = tag == "NOUN" and allowed == ["PROPN"]
            if not as_name and (len(allowed) == 1 or tag not in allowed):
                found[tag] += 1
    return {
        (tag, what): right[tag] / max(1, total[tag]) for tag in COUNTED for what, total in (("P", found), ("R", gold))
    }


def _candidates() -> list[tuple[str, TagWords]]:
    candidates: list[tuple[str, TagWords]] = [
        ("ours (WordNet counts, Viterbi)", load_tagger().tag_words),
        ("most frequent tag in WordNet", _most_frequent()),
        ("NLTK perceptron trained on dev", _perceptron()),
    ]
    for module, name, build in (("textblob", "TextBlob (pattern)", _textblob), ("HanTa", "HanTa", _hanta)):
        if importlib.util.find_spec(module) is not None:
            candidates.append((name, build()))
    return candidates


def _most_frequent() -> TagWords:
    wordnet = load_wordnet()
    names = {"n": "NOUN", "v": "VERB", "a": "ADJ", "r": "ADV"}

    def tag(word: str) -> str:
        counts: dict[str, int] = {}
        for pos in PARTS:
            if (lemma := wordnet.base_form(word.lower(), pos)) is not None:
                counts[names[pos]] = wordnet.count(lemma, pos)
        return max(counts, key=lambda name: counts[name]) if counts else "OTHER"

    return lambda words: [tag(word) for word in words]


def _perceptron() -> TagWords:
    import random

    from nltk.tag.perceptron import PerceptronTagger

    random.seed(0)  # NLTK shuffles with the global generator
    tagger = PerceptronTagger(load=False)
    tagger.train([[(w, t.split("|")[0]) for w, t in zip(*row, strict=True)] for row in _read("dev")], nr_iter=10)
    return lambda words: [str(tag) for _, tag in tagger.tag(words)]


def _textblob() -> TagWords:
    parse: Any = importlib.import_module("textblob.en").parse

    def tag_words(words: list[str]) -> list[str]:
        parsed = parse(" ".join(words), tokenize=False, chunks=False)
        return [_from_penn(part.rsplit("/", 1)[1]) for part in str.split(parsed)]

    return tag_words


def _hanta() -> TagWords:
    tagger: Any = importlib.import_module("HanTa.HanoverTagger").HanoverTagger("morphmodel_en.pgz")
    return lambda words: [_from_penn(tag) for _, _, tag in tagger.tag_sent(words)]


def _from_penn(tag: str) -> str:
    """Map Penn tags, and HanTa's CLAWS tags, to the two that count."""
    if tag.startswith(("NN", "NP")):
        return "NOUN"
    return "ADJ" if tag.startswith(("JJ", "AJ")) else "OTHER"


if __name__ == "__main__":
    main()
