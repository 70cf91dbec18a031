"""From a swap of words to an instruction: "replace the bus with a train", "make the bus blue"."""

from iedit_model.editing.editor import EditRequest
from iedit_model.errors import EditError
from iedit_model.inflection import with_article


def instruction_of(request: EditRequest) -> str:
    """Return the request's instruction, or one made of its swap.

    Raises:
        EditError: the request has neither an instruction nor a word with its replacement.
    """
    if request.instruction and request.instruction.strip():
        return request.instruction
    if not request.word or not request.replacement:
        raise EditError(
            "InstructPix2Pix needs an instruction, like 'replace the bus with a train': give it, or the word to edit "
            "and its replacement"
        )
    return swap_instruction(request.word, request.replacement)


def swap_instruction(word: str, replacement: str) -> str:
    """Return the instruction for a swapped noun, or for an adjective where both phrases end in the same noun.

    "bus", "train" gives "replace the bus with a train"; "red bus", "blue bus" gives "make the bus blue", which names
    the noun without the adjective that is to go.
    """
    old, new = word.split(), replacement.split()
    if len(old) > 1 and len(new) > 1 and old[-1].lower() == new[-1].lower() and old != new:
        return f"make the {old[-1]} {' '.join(new[:-1])}"
    return f"replace the {word} with {with_article(replacement)}"
