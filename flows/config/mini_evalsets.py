"""Evaluation sets of the miniature: its "real" set with true masks, and the words of its generated one."""

from pathlib import Path

from iedit_model.imaging.encode import encode_image
from miniature.evalsets import GeneratedEdit, generated_edits, real_pairs
from miniature.pairs import TruePair
from miniature.vocabulary import NOUN_CODES, with_article
from tasks.evaluate.sets.evalset import EvalSet, EvalSetInfo
from tasks.evaluate.sets.folder import NewPair, write_evalset
from tasks.evaluate.sets.generated import GeneratedPrompt

REAL_INFO = EvalSetInfo(
    name="mini-real",
    origin="real",
    description="52 edits of 30 held-out scenes of the picture world, with their true masks.",
    license="CC BY-SA 4.0 (OpenMoji)",
)
GENERATED_INFO = EvalSetInfo(
    name="mini-generated",
    origin="generated",
    description="70 edits of 20 pictures that the miniature base model drew from their source prompts.",
    license="CC BY-SA 4.0 (OpenMoji)",
)


def make_real_set(root: str | Path) -> EvalSet:
    """Write the miniature's real set: 52 pairs of 30 scenes that training never saw, the true mask with each.

    Raises:
        EvalSetExistsError: another set is there.
    """
    pairs = [_real_pair(number, index, pair) for number, (index, pair) in enumerate(real_pairs())]
    return write_evalset(root, REAL_INFO, pairs)


def mini_generated_prompts() -> tuple[GeneratedPrompt, ...]:
    """Return the miniature's 70 edits in words of 20 pictures."""
    return tuple(_generated_prompt(edit) for edit in generated_edits())


def _real_pair(number: int, index: int, pair: TruePair) -> NewPair:
    thing, changed = pair.source.objects[pair.position], pair.target.objects[pair.position]
    return NewPair(
        pair_id=f"{number:04d}",
        image_id=f"scene-{index:03d}",
        image=encode_image(pair.source.render()),
        source_prompt=pair.source.caption,
        edit_prompt=pair.edit_prompt,
        word=thing.noun,
        replacement=changed.noun if pair.kind == "noun" else changed.phrase,
        instruction=pair.instruction,
        kind=pair.kind,
        mask=pair.source.masks()[pair.position],
        mask_origin="truth",
    )


def _generated_prompt(edit: GeneratedEdit) -> GeneratedPrompt:
    """Say an edit as an instruction too: the two prompts of it differ in one noun or one colour."""
    # An article may change with its noun ("a bus", "an airplane") and is no part of the edit.
    before, after = (
        [word for word in prompt.split() if word not in {"a", "an"}]
        for prompt in (edit.source_prompt, edit.edit_prompt)
    )
    old, new = next((old, new) for old, new in zip(before, after, strict=True) if old != new)
    is_noun = old in NOUN_CODES
    return GeneratedPrompt(
        image_index=edit.image_index,
        source_prompt=edit.source_prompt,
        edit_prompt=edit.edit_prompt,
        word=edit.word,
        replacement=new if is_noun else f"{new} {edit.word}",
        instruction=f"replace the {old} with {with_article(new)}" if is_noun else f"make the {edit.word} {new}",
        kind="noun" if is_noun else "colour",
    )
