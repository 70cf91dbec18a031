import pytest

from tasks.download.client import is_forbidden


@pytest.mark.parametrize(
    ("values", "forbidden"),
    [
        ([], False),
        (["noai"], True),
        (["NoImageAI"], True),
        (["all, noindex"], True),
        (["none"], True),
        (["nofollow, noarchive"], False),
        (["otherbot: noai"], False),
        (["otherbot: noai, noindex"], False),
        (["iedit: noai"], True),
        (["IEdit : noimageindex"], True),
        (["otherbot: noai, iedit: noindex"], True),
        (["iedit: nofollow, otherbot: noindex"], False),
        (["*: noai"], True),
        (["nofollow", "noimageai"], True),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], True),
        (["max-snippet: 10, noindex"], True),
        (["noaim"], False),
        ([":::,,noai"], True),
    ],
)
def test_rules_count_for_everybody_or_for_the_robot_before_them(values: list[str], *, forbidden: bool) -> None:
    assert is_forbidden(values, agent="iedit") is forbidden


def test_the_forbidding_rules_can_be_chosen() -> None:
    assert not is_forbidden(["noindex"], agent="iedit", rules=("noai",))
    assert is_forbidden(["NOAI"], agent="iedit", rules=("NoAI",))
