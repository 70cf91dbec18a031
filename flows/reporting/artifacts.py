"""What a run leaves in the Prefect page: the funnel, a sheet of pairs, and where to find the rest."""

import io
from typing import Any, Final

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.reporting.image_artifact import publish_picture
from flows.reporting.progress import Tally
from storage import StageRecord, VersionInfo, VersionStore
from storage.files import Files
from tasks.dataset.dataset_card import dataset_card
from tasks.dataset.gallery import pair_sheet

_PAIRS_SHOWN: Final = 12


def publish_version(version: VersionInfo, root: str, tally: Tally) -> None:
    """Create the artifacts of a finished build: funnel, gallery and dataset card."""
    create_table_artifact(
        key="funnel", table=funnel_rows(version, tally), description=f"From URLs to pairs: version {version.id}"
    )
    versions = VersionStore(Files(root))
    sheet = pair_sheet(versions, version, limit=_PAIRS_SHOWN)
    stream = io.BytesIO()
    sheet.save(stream, "WEBP", quality=90)
    publish_picture(
        stream.getvalue(),
        key="pairs",
        title="pairs",
        description=f"Pairs of version {version.id}: source, its mask, target, its mask, caption > edit prompt",
    )
    create_markdown_artifact(
        key="dataset-card", markdown=dataset_card(versions, version.id), description=f"Card of version {version.id}"
    )


def funnel_rows(version: VersionInfo, tally: Tally) -> list[dict[str, Any]]:
    """Return the funnel as rows: stage, in, out, dropped by reason, and samples a second of one worker."""
    return [_row(record, tally) for record in version.stages]


def _row(record: StageRecord, tally: Tally) -> dict[str, Any]:
    speed = tally.per_second(record.stage)
    return {
        "stage": record.stage,
        "in": record.num_in,
        "out": record.num_out,
        "per second": round(speed, 1) if speed is not None else None,
        "dropped": ", ".join(f"{reason} {count}" for reason, count in record.dropped.items()) or "none",
    }
