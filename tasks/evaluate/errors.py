"""Errors of evaluations and evaluation sets.

EvaluationError
├── MissingScoresError   a summary needs a method, set or metric that was not scored
├── UnknownEvaluationError  no evaluation, or more than one, has this id
└── RegressionError      a metric fell by more than its interval against the pinned baseline
EvalSetError
├── EvalSetExistsError   a folder already holds another evaluation set
└── UnknownPairError     the set holds no pair of this id
"""

from tasks.errors import TaskError


class EvaluationError(TaskError):
    """An evaluation cannot be made, read or written."""


class MissingScoresError(EvaluationError):
    """A method, set or metric was not scored."""


class UnknownEvaluationError(EvaluationError):
    """No evaluation, or more than one, has this id."""


class RegressionError(EvaluationError):
    """A metric fell by more than its confidence interval; the message lists every metric that did, and by how much."""


class EvalSetError(TaskError):
    """An evaluation set cannot be read or written; the message names the folder, the pair and what is wrong."""


class EvalSetExistsError(EvalSetError):
    """The folder already holds an evaluation set with other content."""


class UnknownPairError(EvalSetError):
    """The set holds no pair of this id."""
