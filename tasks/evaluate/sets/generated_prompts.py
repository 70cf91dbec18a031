"""The words of a generated set: 20 pictures that a base model draws, and 70 edits of them.

The paper gives the counts and a few prompts of its figures, not the list; these are ours, of the same kinds: another
object, another colour or material, another state.
"""

from typing import Final

from pydantic import NonNegativeInt

from iedit_model.configuration import configuration


@configuration
class GeneratedPrompt:
    """One edit of a picture that a model draws."""

    image_index: NonNegativeInt
    """Which picture, from 0."""
    source_prompt: str
    edit_prompt: str
    word: str
    """The thing to edit, as the source prompt names it."""
    replacement: str | None = None
    """What takes its place in the edit prompt."""
    instruction: str | None = None
    kind: str | None = None

    def __post_init__(self) -> None:
        if self.word not in self.source_prompt:
            raise ValueError(
                f"prompt of image {self.image_index}: the word {self.word!r} does not stand in {self.source_prompt!r}"
            )


# prompt with {} for the thing, the thing, what it becomes: other things first, then other looks of the same thing
_SCENES: Final[tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...]] = (
    ("a photo of {} on a plate", "chocolate cake", ("strawberry cake", "pizza"), ("pink cake", "melted cake")),
    ("a photo of {} parked on a street", "car", ("sports car", "vintage car", "bus"), ("yellow car",)),
    ("a photo of {} sitting on a sofa", "cat", ("dog", "rabbit"), ("laughing cat", "black cat")),
    ("{} in a green field", "horse", ("zebra", "cow"), ("white horse",)),
    ("{} in the sea at sunset", "ship", ("sailing boat", "whale"), ("burning ship",)),
    ("a photo of {} between mountains", "road", ("river", "railway"), ("snowy road",)),
    ("a bowl of {} on a wooden table", "apples", ("oranges", "lemons", "eggs"), ("green apples",)),
    ("{} sitting on a branch", "bird", ("owl", "parrot", "squirrel"), ("blue bird",)),
    ("{} riding a horse on the moon", "astronaut", ("elephant", "old man"), ("golden astronaut",)),
    ("{} in a forest", "wooden house", ("stone castle", "tent"), ("red house", "snowy house")),
    ("a vase of {} on a windowsill", "roses", ("tulips", "sunflowers"), ("white roses", "withered roses")),
    ("a man wearing {}", "black jacket", ("red jacket", "grey suit"), ("leather jacket",)),
    ("{} on a white background", "handbag", ("backpack", "suitcase"), ("handbag with strawberry prints",)),
    ("{} standing in the snow", "penguin", ("polar bear", "fox"), ("dancing penguin",)),
    ("a photo of {} on a beach", "dog", ("cat", "turtle"), ("white dog", "sleeping dog")),
    ("a cup of {} on a table", "coffee", ("green tea", "orange juice", "hot chocolate"), ("iced coffee",)),
    ("{} on a hill", "tree", ("cherry tree", "windmill"), ("autumn tree",)),
    ("{} on a bed", "teddy bear", ("panda", "doll"), ("white teddy bear",)),
    ("{} flying in the sky", "airplane", ("hot air balloon", "dragon"), ("red airplane",)),
    ("{} leaning against a brick wall", "bicycle", ("motorcycle", "skateboard", "scooter"), ("rusty bicycle",)),
)
_WITHOUT_ARTICLE: Final = frozenset({"apples", "oranges", "lemons", "eggs", "roses", "tulips", "sunflowers"}) | {
    *("coffee", "tea", "juice", "chocolate"),
}


def _phrase(thing: str) -> str:
    if thing.rsplit(maxsplit=1)[-1] in _WITHOUT_ARTICLE:
        return thing
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


def _prompt(index: int, pattern: str, word: str, other: str, *, kind: str) -> GeneratedPrompt:
    verb = f"replace the {word} with" if kind == "object" else "turn it into"
    return GeneratedPrompt(
        image_index=index,
        source_prompt=pattern.format(_phrase(word)),
        edit_prompt=pattern.format(_phrase(other)),
        word=word,
        replacement=other,
        instruction=f"{verb} {_phrase(other)}",
        kind=kind,
    )


GENERATED_PROMPTS: Final[tuple[GeneratedPrompt, ...]] = tuple(
    _prompt(index, pattern, word, other, kind=kind)
    for index, (pattern, word, objects, looks) in enumerate(_SCENES)
    for kind, others in (("object", objects), ("look", looks))
    for other in others
)
"""70 edits of 20 pictures."""
