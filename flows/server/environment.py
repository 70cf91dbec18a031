"""What every process of ours says to its libraries by default: no telemetry, no look for updates."""

import os
from typing import Final

DEFAULTS: Final = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Variables that are set where the user has not set them."""


def apply_defaults() -> None:
    """Set each variable of ``DEFAULTS`` that is not set; must come before the libraries are imported."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
