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
        (["unavailable_after: Fri, 25 Jun 2077 15:00:00 PST, noai"], True),
        (["max-snippet: 20, unavailable_after: Monday, 04-Jan-77 09:30:00 GMT, noindex"], True),
        (["unavailable_after: 2077-06-25T15:00:00+02:00; NOAI"], True),
        (["unavailable_after: Fri, 25 Jun 2077 15:00:00 PST"], False),
        (["unavailable_after: Fri, 25 Jun 2010 15:00:00 PST"], True),
        (["unavailable_after: 2010-06-25"], True),
        (["iedit: Unavailable_After : Friday, 25-Jun-10 15:00:00 GMT"], True),
        (["otherbot: unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], False),
        (["otherbot: unavailable_after: Fri, 25 Jun 2010 15:00:00 PST, iedit: noai"], True),
        (["unavailable_after: some day, nofollow"], False),
        (["otherbot/2.1: noai", "IEdit/1.0: noai"], True),
        (["noindex nofollow"], True),
        (["nofollow; noimageindex"], True),
        (["otherbot: noai; iedit: max-image-preview: none, noarchive"], False),
    ],
)
def test_rules_count_for_everybody_or_for_the_robot_before_them(values: list[str], *, forbidden: bool) -> None:
    assert is_forbidden(values, agent="iedit") is forbidden


def test_the_forbidding_rules_can_be_chosen() -> None:
    assert not is_forbidden(["noindex"], agent="iedit", rules=("noai",))
    assert is_forbidden(["NOAI"], agent="iedit", rules=("NoAI",))
