"""What a metric can refuse; every error names the offending value and what would be right.

IEditError
`-- MetricError             root of this package's refusals
    |-- MetricInputError    shapes, types, ranges or values on which a metric is not defined
    |-- TooFewSamplesError  a set too small for the wanted statistic
    `-- MetricWeightsError  a feature network's weights are missing, unreadable or of another network
"""

from iedit_model.errors import IEditError, WeightsError


class MetricError(IEditError):
    """Root of the errors of ``iedit_model.metrics``."""


class MetricInputError(MetricError, ValueError):
    """An input has a shape, type or value on which the metric is not defined."""


class TooFewSamplesError(MetricError, ValueError):
    """A set of images is too small for the wanted statistic."""


class MetricWeightsError(MetricError, WeightsError):
    """The weights of a feature network are missing, unreadable or belong to another network."""
