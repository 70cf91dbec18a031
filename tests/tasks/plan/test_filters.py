from dataclasses import replace
from typing import Any

import pytest

from iedit_model.errors import ConfigError
from tasks.plan.filters import FilterConfig, MetadataRow, reason_against

ROW = MetadataRow(
    url="http://e.com/",
    alt_text=" a red bus ",
    width=300,
    height=200,
    similarity=0.3,
    punsafe=0.1,
    pwatermark=0.2,
    aesthetic_score=5.5,
    language="EN",
)


@pytest.mark.parametrize(
    ("config", "changes", "reason"),
    [
        ({"min_side_px": 200}, {"height": 199}, "too_small"),
        ({"min_side_px": 200}, {"width": 199}, "too_small"),
        ({"max_aspect": 1.5}, {"width": 301}, "bad_aspect"),
        ({"max_aspect": 1.5}, {"height": 451}, "bad_aspect"),
        ({"max_punsafe": 0.1}, {"punsafe": 0.11}, "unsafe"),
        ({"max_pwatermark": 0.2}, {"pwatermark": 0.21}, "watermarked"),
        ({"min_aesthetic": 5.5}, {"aesthetic_score": 5.4}, "low_aesthetic"),
        ({"min_similarity": 0.3}, {"similarity": 0.29}, "low_similarity"),
        ({"languages": ("de", "en")}, {"language": "fr"}, "other_language"),
        ({"min_text_chars": 9}, {"alt_text": " a bus          "}, "short_text"),
        ({"max_text_chars": 9}, {"alt_text": "a very red bus"}, "long_text"),
    ],
)
def test_a_filter_passes_its_limit_and_drops_what_is_beyond_for_its_reason(
    config: dict[str, Any], changes: dict[str, Any], reason: str
) -> None:
    filters = FilterConfig(**config)
    assert reason_against(ROW, filters) is None
    assert reason_against(replace(ROW, **changes), filters) == reason
    assert reason_against(replace(ROW, **changes), FilterConfig()) is None
    column = next(iter(changes))
    unknown = replace(ROW, **{column: None})
    assert reason_against(unknown, filters) is None
    assert reason_against(unknown, replace(filters, keep_unknown=False)) == f"unknown_{column}"
    assert column in filters.needed()


def test_the_first_of_several_reasons_is_given_and_only_needed_columns_are_asked_for() -> None:
    filters = FilterConfig(max_punsafe=0.5, min_side_px=64)
    assert reason_against(replace(ROW, width=10, punsafe=0.9), filters) == "too_small"
    assert filters.needed() == ("width", "height", "punsafe")
    assert FilterConfig().needed() == ()


@pytest.mark.parametrize(
    "wrong",
    [
        *({"min_side_px": 0}, {"max_aspect": 0.9}, {"max_punsafe": 1.1}, {"max_pwatermark": -0.1}),
        *({"min_similarity": 2}, {"languages": ()}, {"min_text_chars": -1}, {"min_aesthetic": float("nan")}),
    ],
)
def test_a_filter_out_of_range_names_its_field(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        FilterConfig(**wrong)
