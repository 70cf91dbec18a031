"""Slow reference implementation of the retrieval: plain Python over every image, one pair at a time."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Vector = Sequence[float]


@dataclass(frozen=True, kw_only=True)
class CorpusImage:
    """One image of a corpus with all that decides its retrieval."""

    url: str
    image: Vector
    text: Vector
    caption_text: Vector
    layout: Vector
    caption: str = "a thing"
    sha256: str = ""
    phash: int | None = None


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Every setting, by the meaning that the documentation gives it."""

    text_weight: float = 0.5
    centred: bool = False
    top_k: int = 20
    max_image: float | None = 0.98
    max_bits: int | None = 4
    bits_from_image: float = 0.95
    same_caption: bool = False
    weights: Mapping[str, float] = field(default_factory=lambda: {"similarity": 1.0})
    gates: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Found:
    """Candidates of one source as (id, reason), the target, and the target's scores."""

    candidates: list[tuple[str, str]]
    target: str | None
    scores: dict[str, float]


def dot(x: Vector, y: Vector) -> float:
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def unit(x: Vector) -> list[float]:
    norm = math.sqrt(dot(x, x))
    return [a / norm for a in x] if norm else [0.0 for _ in x]


def cosine(x: Vector, y: Vector) -> float:
    return dot(unit(x), unit(y))


def usable(x: Vector) -> bool:
    return all(map(math.isfinite, x)) and abs(math.sqrt(dot(x, x)) - 1) <= 0.01


def minus(x: Vector, y: Vector) -> list[float]:
    return [a - b for a, b in zip(x, y, strict=True)]


def mean(rows: Sequence[Vector]) -> list[float]:
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


def retrieve(images: Mapping[str, CorpusImage], rules: Rules) -> dict[str, Found]:
    """Return what every image with a query finds; images without a usable embedding are never found."""
    corpus = {name: entry for name, entry in images.items() if usable(entry.image)}
    texts = [entry.text for entry in images.values() if usable(entry.text)]
    image_mean = mean([entry.image for entry in corpus.values()]) if corpus else []
    text_mean = mean(texts) if texts else [0.0] * len(image_mean)
    found = {}
    for name, source in corpus.items():
        if not usable(source.text):
            continue
        image, text = source.image, source.text
        if rules.centred:
            image, text = minus(image, image_mean), minus(text, text_mean)
        w = rules.text_weight
        mixed = [(1 - w) * a + w * b for a, b in zip(unit(image), unit(text), strict=True)]
        if math.sqrt(dot(mixed, mixed)) >= 1e-6:
            found[name] = _search(name, unit(mixed), corpus, rules)
    return found


def _search(name: str, query: Vector, corpus: Mapping[str, CorpusImage], rules: Rules) -> Found:
    source = corpus[name]
    others = sorted(
        (other for other in corpus if other != name), key=lambda o: (_step(dot(query, unit(corpus[o].image))), o)
    )
    eligible: list[str] = []
    excluded: list[tuple[str, str]] = []
    for other in others:
        if len(eligible) == rules.top_k:
            break
        if reason := _exclusion(source, corpus[other], rules):
            excluded.append((other, reason))
        else:
            eligible.append(other)
    scores = {other: _scores(source, corpus[other], query) for other in eligible}
    total = sum(rules.weights.values())
    ranking = {
        other: sum(weight * scores[other][key] for key, weight in rules.weights.items()) / total for other in eligible
    }
    eligible.sort(key=lambda other: (_step(ranking[other]), other))
    gated = [(other, _gate(scores[other], rules.gates)) for other in eligible]
    target = next((other for other, reason in gated if not reason), None)
    return Found(
        candidates=[*gated, *excluded[: rules.top_k]],
        target=target,
        scores=scores[target] if target is not None else {},
    )


def _step(score: float) -> int:
    return -round(score * 1e6)


def _exclusion(source: CorpusImage, other: CorpusImage, rules: Rules) -> str:
    image = round(cosine(source.image, other.image) * 1e4)
    if _address(source.url) == _address(other.url):
        return "same_url"
    if source.sha256 and source.sha256 == other.sha256:
        return "same_hash"
    if rules.max_image is not None and image > round(rules.max_image * 1e4):
        return "near_duplicate"
    if rules.max_bits is not None and source.phash is not None and other.phash is not None:
        bits = ((source.phash ^ other.phash) & (2**64 - 1)).bit_count()
        if bits <= rules.max_bits and image >= round(rules.bits_from_image * 1e4):
            return "near_duplicate"
    if rules.same_caption and source.caption.lower().strip(" .") == other.caption.lower().strip(" ."):
        return "same_caption"
    return ""


def _address(url: str) -> str:
    return re.sub(r"^https?://(www\.)?", "", url).split("#")[0]


def _scores(source: CorpusImage, other: CorpusImage, query: Vector) -> dict[str, float]:
    image_step = minus(unit(other.image), unit(source.image))
    text_step = minus(unit(source.text), unit(source.caption_text))
    still = math.sqrt(dot(image_step, image_step) * dot(text_step, text_step)) <= 1e-6
    return {
        "similarity": dot(query, unit(other.image)),
        "source_text": cosine(source.image, source.caption_text),
        "target_text": cosine(other.image, source.text),
        "image": cosine(source.image, other.image),
        "directional": 0.0 if still else cosine(image_step, text_step),
        "layout": cosine(source.layout, other.layout),
    }


def _gate(scores: Mapping[str, float], gates: Mapping[str, float | None]) -> str:
    for gate, score, reason in (
        ("source_text_min", "source_text", "source_text_low"),
        ("target_text_min", "target_text", "target_text_low"),
        ("image_min", "image", "image_low"),
        ("image_max", "image", "image_high"),
        ("directional_min", "directional", "directional_low"),
    ):
        limit = gates.get(gate)
        if limit is None:
            continue
        difference = round(scores[score] * 1e4) - round(limit * 1e4)
        if (difference > 0) if gate.endswith("_max") else (difference < 0):
            return reason
    return ""
