"""Errors of evaluation sets.

EvalSetError
├── EvalSetExistsError   a folder already holds another evaluation set
└── UnknownPairError     a pair is asked for that the set does not hold
"""

from tasks.errors import TaskError


class EvalSetError(TaskError):
    """An evaluation set cannot be read or written; the message names the folder, the pair and what is wrong."""


class EvalSetExistsError(EvalSetError):
    """The folder already holds an evaluation set with other content."""


class UnknownPairError(EvalSetError):
    """The set holds no pair of this id."""
