"""Reports of shards that nobody made, for tests of what only counts them."""

from storage import ShardReport

FINGERPRINT = "0123456789abcdef"


def report(
    stage: str = "caption",
    shard: str = "00000",
    *,
    num_in: int = 10,
    dropped: dict[str, int] | None = None,
    seconds: float = 1.0,
) -> ShardReport:
    """Return a report without files."""
    lost = dropped or {}
    return ShardReport(
        stage=stage,
        shard=shard,
        fingerprint=FINGERPRINT,
        num_in=num_in,
        num_out=num_in - sum(lost.values()),
        dropped=lost,
        seconds=seconds,
    )
