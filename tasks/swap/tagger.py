"""Part-of-speech tags for captions: WordNet's sense counts, closed word classes and a table of which tag follows which.

A hidden Markov model decoded with Viterbi. How likely a word has a tag comes from WordNet's tagged counts, so no model
file is needed; the table of transitions is written by hand for the language of captions and was tuned on the
development half of ``tests/assets/tagged_captions.jsonl``. docs/decisions/0003-part-of-speech-tagger.md compares it
with the taggers that others offer.
"""

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from iedit_model.inflection import word_set
from tasks.swap.wordnet import PARTS, Pos, WordNet, load_wordnet

Tag = Literal["NOUN", "PROPN", "ADJ", "VERB", "AUX", "ADV", "ADP", "DET", "PRON", "NUM", "CCONJ", "PART", "PUNCT"]
"""Universal part-of-speech tags."""

_TOKEN: Final = re.compile(r"\w+(?:[-'\u2019]\w+)*|[^\w\s]")

# Inner tags are finer: NN NNS singular and plural noun, PO possessive, JJ JP adjective before a noun and after a verb,
# VBG -ing, VBN -ed, VBZ -s, VB base form, MD modal, IN preposition, OF "of", PR "her", PS "she", TO "to", TH "that".
_UNIVERSAL: Final[dict[str, Tag]] = {
    "NN": "NOUN", "NNS": "NOUN", "PO": "NOUN", "JJ": "ADJ", "JP": "ADJ", "VBG": "VERB", "VBN": "VERB", "VBZ": "VERB",
    "VB": "VERB", "RB": "ADV", "AUX": "AUX", "MD": "AUX", "DT": "DET", "IN": "ADP", "OF": "ADP", "CC": "CCONJ",
    "PR": "PRON", "PS": "PRON", "TH": "PRON", "TO": "PART", "CD": "NUM", "PU": "PUNCT",
}  # fmt: skip

_CLOSED: Final[dict[str, str]] = {
    word: tag
    for tag, words in {
        "DT": "a an the this these those some each every no both all another any several many few",
        "IN": "in with at by from under behind near through into onto above across against along between beside below "
        "for during without within toward towards beneath among amongst amid as than via per upon opposite beyond",
        "OF": "of",
        "CC": "and or but while nor &",
        "PR": "its their his whose my your our",
        "PS": "it there who which he she they him them himself herself itself themselves i you we me us someone "
        "something anyone everyone what",
        "AUX": "is are was were be been being am has have had does do did 's 're isn't aren't",
        "MD": "will would could may might should must",
        "TO": "to",
        "TH": "that",
        "CD": "one two three four five six seven eight nine ten eleven twelve twenty thirty hundred",
        "RB": "very not too also together next just almost away upside downside when where how indoors outdoors here",
    }.items()
    for word in words.split()
}
_NEARLY_CLOSED: Final[dict[str, dict[str, float]]] = {
    "around": {"IN": 0.8, "RB": 0.2},
    "can": {"MD": 0.6, "NN": 0.4},
    "close": {"JJ": 0.5, "RB": 0.35, "NN": 0.1, "VB": 0.05},
    "down": {"IN": 0.6, "RB": 0.4},
    "front": {"NN": 0.9, "JJ": 0.1},
    "her": {"PR": 0.8, "PS": 0.2},
    "inside": {"IN": 0.6, "RB": 0.25, "NN": 0.15},
    "like": {"IN": 0.9, "VB": 0.1},
    "off": {"IN": 0.5, "RB": 0.5},
    "on": {"IN": 0.95, "RB": 0.05},
    "out": {"RB": 0.6, "IN": 0.4},
    "outside": {"IN": 0.6, "RB": 0.3, "NN": 0.1},
    "over": {"IN": 0.95, "RB": 0.05},
    "past": {"IN": 0.8, "NN": 0.1, "JJ": 0.1},
    "up": {"IN": 0.5, "RB": 0.5},
}
_IRREGULAR_PARTICIPLES: Final = word_set(
    """built cut done drawn driven grown held hung kept left lit made put ridden seen set sewn shown spread taken thrown
    torn worn written broken"""
)
_PLURALS_IN_DISGUISE: Final = frozenset(
    {
        "children",
        "clothes",
        "deer",
        "feet",
        "fish",
        "geese",
        "jeans",
        "men",
        "mice",
        "pants",
        "people",
        "sheep",
        "teeth",
    }
)

_NEXT: Final = """
^   DT 80 CD 5 NNS 6 NN 5 JJ 5 JP .2 PO .5 VBN 1.5 VBG 1.5 PR 1 PS 2 IN 1 RB .5 VB .3 AUX .1
NN  $ 34 IN 25 OF 10 NN 15 NNS 4 VBG 10 VBN 3 CC 5 VBZ 2.5 AUX 1.5 MD .4 TH .7 PU 1 RB .7 JP .6 PR .3 PO .5 VB .05 DT .1
    JJ .1 CD .2 PS .2 TO .4
NNS $ 30 IN 23 OF 4 VBG 12 VBN 4 CC 11 VB 6 AUX 2 MD .5 TH 1 PU 1.5 RB 1 JP 1 NN .5 NNS .3 VBZ .1 DT .2 JJ .1 PR .2
    TO .4 PS .2
PO  NN 55 NNS 15 JJ 25 VBN 1 CD 1 IN .3 $ .2 VBG .3
JJ  NN 72 NNS 14 JJ 8 CC 3.5 VBN 1.5 PU 1 VBG .4 PO .7 CD .2
JP  $ 35 CC 15 IN 15 OF 6 TO 10 JP .5 PU 4 VBG .5 DT .3
VBG IN 38 DT 33 NN 6 NNS 5 JJ 3 RB 4 TO 3 PR 5 $ 5 CD 1 CC 1 OF .2 JP .5 PU 1 PO .5 VBN .5 VBG .3 PS 1
VBN IN 45 NN 16 NNS 6 RB 4 JJ 2 TO 2 $ 4 OF .7 CC 1 DT 1 VBG .5 JP .7 PU .5 VBN .5
VBZ DT 48 IN 22 PR 6 NN 4 NNS 4 JJ 3 TO 4 RB 4 CD 1 VBG 2 $ 5 CC 1 JP 1 PO .5
VB  DT 30 IN 32 PR 4 NN 8 NNS 8 JJ 3 TO 3 RB 3 CD 1 VBN 2 $ 6 CC 1 JP .5 AUX .5
RB  TO 18 IN 22 JP 12 JJ 8 VBN 10 VBG 6 $ 15 RB 3 OF 1 DT 2 CC 2 NN 1 NNS .5 PU 2 VBZ 1 VB 1
DT  NN 62 JJ 29 NNS 3 PO 1.5 VBN 1 VBG .5 RB .5 CD 1.2 IN .1 OF .1 $ .1 AUX .1
IN  DT 58 NN 13 NNS 9 JJ 10 PR 4 CD 2 OF 2 IN 2 VBN .7 VBG 1 PO 1 PS .7 $ 1.5 RB .5 TO .3
OF  DT 40 NN 24 NNS 14 JJ 14 PR 2 CD 2 VBN 1 VBG .3 PO 1 PS .3
CC  DT 33 JJ 20 JP 4 NN 20 NNS 16 VBG 3 VBN 1.5 CD 1.5 PR 2 PO .5 IN 1 RB 1 VBZ 1 VB 1 PS .5
PR  NN 66 NNS 17 JJ 14 VBN 1 VBG .3 CD 1 PO .3
PS  AUX 40 VBZ 18 VB 6 MD 3 IN 15 VBG 5 DT 2 RB 3 $ 3 CC 1
AUX VBG 35 VBN 18 DT 12 JP 14 RB 8 IN 8 NN 1 NNS .7 VB .5 AUX 1 PR 1 TO 1 CD 1 PS 1 $ .3
MD  VB 85 RB 5 AUX 8 PS 1
TO  DT 55 VB 15 NN 9 NNS 4 JJ 4 PR 5 CD 1 PO .5 PS .5 IN .3
CD  NNS 66 NN 14 JJ 14 VBN 1 OF 1 $ 1 IN 1 PO 1 CC 1
PU  NN 16 DT 25 NNS 8 JJ 14 JP 2 VBG 10 VBN 8 CC 5 IN 10 CD 1 PR 1 RB 1 $ 5 PU 5 PS 1
TH  AUX 50 VBZ 25 VB 8 MD 3 NN 8 DT 5 PS 2
"""
"""Tag, then the tags that may follow it with their weights; ^ starts a caption, $ ends it."""
_UNLISTED: Final = 0.02
"""Weight of a transition that the table does not name."""

_FREQUENCY: Final = {
    "NN": 32, "NNS": 6, "PO": 0.4, "JJ": 9, "JP": 0.8, "VBG": 5, "VBN": 3, "VBZ": 1.5, "VB": 1, "RB": 1, "DT": 20,
    "IN": 11, "OF": 4, "CC": 2.5, "PR": 0.7, "PS": 0.5, "AUX": 0.7, "MD": 0.2, "TO": 0.6, "CD": 1, "TH": 0.2, "PU": 0.5,
}  # fmt: skip
"""How common a tag is in captions, per cent."""
_FREQUENCY_POWER: Final = 0.8
"""P(word | tag) is P(tag | word) / P(tag) ** this; under 1 because WordNet's texts are no captions."""
_UNSEEN_COUNT: Final = 1.0
"""Added to the tagged count of every part of speech that a word can have."""
_FORM_SHARE: Final = {"VBG": 0.2, "VBN": 0.6, "VBZ": 0.05, "VB": 0.3}
"""Share of a verb's tagged uses that stand in this form, as captions go."""
_COMPOUND_BOOST: Final = math.log(20)
"""How much likelier (natural logarithm) two words are nouns when WordNet knows them as one noun ("living room")."""
_NOUNS: Final = frozenset({"NN", "NNS"})


@dataclass(frozen=True, slots=True)
class Token:
    """One word or punctuation mark of a caption."""

    text: str
    start: int
    """First character's place in the caption."""
    end: int
    """One past the last character's place."""
    tag: Tag

    @property
    def lower(self) -> str:
        """The text in lower case with a plain apostrophe."""
        return self.text.lower().replace("\u2019", "'")

    @property
    def is_possessive(self) -> bool:
        """Whether it ends in 's or s'."""
        return _is_possessive(self.lower)


class Tagger:
    """Tags the words of captions; the answer depends on the caption alone."""

    def __init__(self, wordnet: WordNet) -> None:
        """Take WordNet as the lexicon."""
        self._wordnet = wordnet
        # Bounded: captions of the web hold words without end.
        self._tags_of = functools.lru_cache(maxsize=65_536)(self._look_up)
        self.knows = functools.lru_cache(maxsize=65_536)(self._is_known)
        self._is_compound = functools.lru_cache(maxsize=65_536)(self._look_up_compound)

    def __call__(self, caption: str) -> list[Token]:
        """Return the tokens of ``caption`` in order; white space is between them."""
        places = [(match.group(), match.start(), match.end()) for match in _TOKEN.finditer(caption)]
        words = [text for text, _, _ in places]
        names = _names(words)
        return [
            Token(text, start, end, "PROPN" if place in names and tag in {"NOUN", "ADJ", "VERB"} else tag)
            for place, ((text, start, end), tag) in enumerate(zip(places, self.tag_words(words), strict=True))
        ]

    def tag_words(self, words: Sequence[str]) -> list[Tag]:
        """Return the likeliest tag of each word of one caption; proper nouns are not told from others here."""
        best: dict[str, float] = {"^": 0.0}
        back: list[dict[str, str]] = []
        lowered = [word.lower().replace("\u2019", "'") for word in words]
        joins = False
        for word, following in zip(lowered, [*lowered, ""][1:], strict=True):
            scores = self._tags_of(word)
            ends, joins = joins, self._may_modify(scores) and self._is_compound(word, following)
            if (joins or ends) and len(scores) > 1:
                scores = {tag: score + (_COMPOUND_BOOST if tag in _NOUNS else 0) for tag, score in scores.items()}
            reached: dict[str, float] = {}
            came_from: dict[str, str] = {}
            for tag, score in scores.items():
                reached[tag], came_from[tag] = _best_way(best, tag)
                reached[tag] += score
            back.append(came_from)
            best = reached
        tag = _best_way(best, "$")[1]
        tags: list[Tag] = []
        for came_from in reversed(back):
            tags.append(_UNIVERSAL[tag])
            tag = came_from[tag]
        return tags[::-1]

    def _look_up(self, word: str) -> dict[str, float]:
        """Return tag -> log P(word | tag) up to a constant, for the tags that the lower-case word can have."""
        shares = _NEARLY_CLOSED.get(word) or self._shares(word)
        total = sum(shares.values())
        if "JJ" in shares:
            shares = {**shares, "JP": shares["JJ"]}
        return {
            tag: math.log(share / total) - _FREQUENCY_POWER * math.log(_FREQUENCY[tag]) for tag, share in shares.items()
        }

    def _is_known(self, word: str) -> bool:
        """Return whether a lower-case word is English; of words under three letters only closed classes are."""
        if word in _CLOSED or word in _NEARLY_CLOSED:
            return True
        word = word.removesuffix("'s").removesuffix("s'")
        return len(word) > 2 and any(self._wordnet.base_form(word, pos) is not None for pos in PARTS)

    def _shares(self, word: str) -> dict[str, float]:
        if word in _CLOSED:
            return {_CLOSED[word]: 1.0}
        if not any(character.isalpha() for character in word):
            return {"CD" if any(character.isdigit() for character in word) else "PU": 1.0}
        if _is_possessive(word):
            return {"PO": 1.0}
        shares: dict[str, float] = {}
        for pos in PARTS:
            if (lemma := self._wordnet.base_form(word, pos)) is not None:
                count = self._wordnet.count(lemma, pos) + _UNSEEN_COUNT
                for tag, share in _forms(word, lemma, pos).items():
                    shares[tag] = shares.get(tag, 0.0) + share * count
        return shares or _guess(word)

    @staticmethod
    def _may_modify(scores: dict[str, float]) -> bool:
        """Return whether a word is about as often a noun as an adjective ("cherry", but not "blue")."""
        if "NN" not in scores:
            return False
        gap = scores.get("JJ", -math.inf) - scores["NN"]
        return gap + _FREQUENCY_POWER * math.log(_FREQUENCY["JJ"] / _FREQUENCY["NN"]) <= math.log(2)

    def _look_up_compound(self, word: str, following: str = "") -> bool:
        head = self._wordnet.base_form(following, "n") if following else None
        return head is not None and self._wordnet.base_form(f"{word}_{head}", "n") is not None


@functools.cache
def load_tagger() -> Tagger:
    """Return the tagger over ``load_wordnet()``, made once a process.

    Raises:
        WordNetError: WordNet cannot be loaded.
    """
    return Tagger(load_wordnet())


def _best_way(best: dict[str, float], tag: str) -> tuple[float, str]:
    """Return the score of the best way to reach ``tag`` and the tag before it; of equals the first."""
    if len(best) == 1:
        (before, score), *_ = best.items()
        return score + _LOG_NEXT[before, tag], before
    score, before = -math.inf, ""
    for candidate, reached in best.items():
        if (total := reached + _LOG_NEXT[candidate, tag]) > score:
            score, before = total, candidate
    return score, before


def _forms(word: str, lemma: str, pos: Pos) -> dict[str, float]:
    """Return the inner tags that a word can have when it is a form of ``lemma``, with their share of its uses."""
    inflected = word != lemma
    if pos == "n":
        return {"NNS" if inflected or word in _PLURALS_IN_DISGUISE else "NN": 1.0}
    if pos == "a":
        return {"JJ": 0.2 if inflected else 1.0}
    if pos == "r":
        return {} if inflected else {"RB": 1.0}
    if inflected:
        tag = "VBG" if word.endswith("ing") else "VBZ" if word.endswith("s") else "VBN"
        return {tag: _FORM_SHARE[tag]}
    both = ("VB", "VBN") if word in _IRREGULAR_PARTICIPLES else ("VB",)
    return {tag: _FORM_SHARE[tag] for tag in both}


def _guess(word: str) -> dict[str, float]:
    """Return tags for a word that WordNet does not know, by its ending."""
    for endings, shares in (
        (("ing",), {"VBG": 0.7, "NN": 0.2, "JJ": 0.1}),
        (("ed",), {"VBN": 0.6, "JJ": 0.4}),
        (("ly",), {"RB": 0.9, "JJ": 0.1}),
        (("ish", "ous", "ful", "less", "able"), {"JJ": 0.8, "NN": 0.2}),
        (("ss", "us", "is"), {"NN": 0.9, "JJ": 0.1}),
        (("s",), {"NNS": 0.85, "NN": 0.1, "VBZ": 0.05}),
    ):
        if word.endswith(endings):
            return shares
    return {"JJ": 0.6, "NN": 0.4} if "-" in word else {"NN": 0.8, "JJ": 0.18, "VB": 0.02}


def _is_possessive(lower: str) -> bool:
    return lower.endswith(("'s", "s'")) and len(lower) > 2


def _names(words: Sequence[str]) -> frozenset[int]:
    """Return the places of words that are written like names: capitals inside a caption that is mostly lower case."""
    lettered = [place for place, word in enumerate(words) if word[0].isalpha()]
    capital = [place for place in lettered if words[place][0].isupper()]
    if not capital or len(capital) * 2 > len(lettered):
        return frozenset()
    return frozenset(place for place in capital if place != lettered[0])


def _read_table(text: str) -> dict[tuple[str, str], float]:
    """Turn the table into (tag, next tag) -> log probability."""
    rows: dict[str, dict[str, float]] = {}
    for line in re.sub(r"\n {4}", " ", text).strip().splitlines():
        tag, *pairs = line.split()
        rows[tag] = {after: float(weight) for after, weight in zip(pairs[::2], pairs[1::2], strict=True)}
    table = {}
    for tag, row in rows.items():
        weights = {after: row.get(after, _UNLISTED) for after in (*_UNIVERSAL, "$")}
        total = sum(weights.values())
        table |= {(tag, after): math.log(weight / total) for after, weight in weights.items()}
    return table


_LOG_NEXT: Final = _read_table(_NEXT) | {("^", "$"): 0.0}
