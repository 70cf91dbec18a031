from dataclasses import fields

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iedit_model.errors import ConfigError
from tasks.retrieve.gates import (
    REJECTIONS,
    RETRIEVE,
    GateConfig,
    dropped_rows,
    gated,
)
from tasks.retrieve.pair_scores import MissingScoreError

LISTS = {
    "candidate_similarities": "similarity",
    "candidate_text_similarities": "target_text_similarity",
    "candidate_image_similarities": "image_similarity",
    "candidate_directional_similarities": "directional_similarity",
    "candidate_layout_similarities": "layout_similarity",
}


def _row(number: int, candidates: list[tuple[float, float, float]], *, source_text: float | None = 0.5) -> dict:
    """Return a row whose candidates have (text, image, directional) similarities."""
    texts, images, directions = (
        (list(column) for column in zip(*candidates, strict=True)) if candidates else ([], [], [])
    )
    return {
        "sample_id": f"{number:020x}",
        "source_text_similarity": source_text,
        "candidate_ids": [f"{100 + i:020x}" for i in range(len(candidates))],
        "candidate_scores": [1 - i / 10 for i in range(len(candidates))],
        "candidate_similarities": [0.9 - i / 10 for i in range(len(candidates))],
        "candidate_text_similarities": texts,
        "candidate_image_similarities": images,
        "candidate_directional_similarities": directions,
        "candidate_layout_similarities": [0.25] * len(candidates),
        "candidate_reasons": [""] * len(candidates),
    }


def _table(rows: list[dict], exclusions: list[str] | None = None, gates: GateConfig | None = None) -> pa.Table:
    table = RETRIEVE.table(rows)
    num_candidates = sum(len(row["candidate_ids"]) for row in rows)
    reasons = np.array(exclusions or [""] * num_candidates, dtype=str)
    return gated(table, reasons, gates or GateConfig())


def test_the_first_candidate_that_passes_is_the_target_and_lends_its_scores():
    gates = GateConfig(target_text_min=0.3, image_max=0.8)
    table = _table([_row(1, [(0.2, 0.5, 0), (0.4, 0.9, 0), (0.35, 0.75, 0.125), (0.9, 0.1, 0)])], gates=gates)
    [row] = table.to_pylist()
    assert row["candidate_reasons"] == ["target_text_low", "image_high", "", ""]
    assert (row["target_id"], row["rank"]) == (row["candidate_ids"][2], 2)
    assert row["similarity"] == pytest.approx(0.7)
    assert row["target_text_similarity"] == pytest.approx(0.35)
    assert (row["image_similarity"], row["directional_similarity"], row["layout_similarity"]) == (0.75, 0.125, 0.25)


def test_of_several_failures_the_first_gate_is_the_reason_and_exclusions_stay():
    gates = GateConfig(source_text_min=0.6, target_text_min=0.9, image_min=0.9, directional_min=0.9)
    [row] = _table([_row(1, [(0, 0, 0)] * 2)], ["", "same_url"], gates).to_pylist()
    assert row["candidate_reasons"] == ["source_text_low", "same_url"]
    assert row["target_id"] is row["rank"] is row["similarity"] is None
    [row] = _table([_row(1, [(0.95, 0, 0)])], gates=GateConfig(target_text_min=0.9, image_min=0.9)).to_pylist()
    assert row["candidate_reasons"] == ["image_low"]


def test_a_score_within_half_a_step_of_the_threshold_passes():
    gates = GateConfig(target_text_min=0.2)
    row = _row(1, [(0.19996, 0, 0), (0.19994, 0, 0)])
    assert _table([row], gates=gates)["candidate_reasons"].to_pylist() == [["", "target_text_low"]]
    high = _row(1, [(0, 0.80004, 0), (0, 0.80006, 0)])
    assert _table([high], gates=GateConfig(image_max=0.8))["candidate_reasons"].to_pylist() == [["", "image_high"]]


def test_each_loss_says_why():
    rows = [
        _row(1, []),
        _row(2, [(0.5, 0.5, 0)]),
        _row(3, [(0.1, 0.5, 0), (0.5, 0.5, 0)], source_text=0.1),
        _row(4, [(0.1, 0.5, 0), (0.5, 0.1, 0)]),
        _row(5, [(0.5, 0.5, 0)]),
    ]
    gates = GateConfig(source_text_min=0.2, target_text_min=0.2, image_min=0.2)
    table = _table(rows, ["same_hash", "", "", "", "", ""], gates)
    assert [(row.sample_id[-1], row.reason, row.detail) for row in dropped_rows(table)] == [
        ("1", "no_candidates", ""),
        ("2", "all_excluded", "same_hash 1"),
        ("3", "source_text_low", "source_text_low 2"),
        ("4", "all_gated", "image_low 1, target_text_low 1"),
    ]


_SCORE = st.integers(-20, 20).map(lambda n: n / 20)
_GATES = st.builds(
    GateConfig,
    source_text_min=st.none() | _SCORE,
    target_text_min=st.none() | _SCORE,
    image_min=st.none() | st.integers(-20, 0).map(lambda n: n / 20),
    image_max=st.none() | st.integers(0, 20).map(lambda n: n / 20),
    directional_min=st.none() | _SCORE,
)


def _slow_choice(row: dict, excluded: list[str], gates: GateConfig) -> tuple[list[str], int | None]:
    reasons = []
    for place, exclusion in enumerate(excluded):
        low = {
            "source_text_low": (row["source_text_similarity"], gates.source_text_min),
            "target_text_low": (row["candidate_text_similarities"][place], gates.target_text_min),
            "image_low": (row["candidate_image_similarities"][place], gates.image_min),
        }
        found = [reason for reason, (score, limit) in low.items() if limit is not None and score < limit]
        if gates.image_max is not None and row["candidate_image_similarities"][place] > gates.image_max:
            found.append("image_high")
        if (
            gates.directional_min is not None
            and row["candidate_directional_similarities"][place] < gates.directional_min
        ):
            found.append("directional_low")
        reasons.append(exclusion or (found[0] if found else ""))
    return reasons, reasons.index("") if "" in reasons else None


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.lists(
            st.tuples(_SCORE, _SCORE, _SCORE, st.sampled_from(["", "", "same_url", "near_duplicate"])), max_size=4
        ),
        min_size=1,
        max_size=5,
    ),
    source_text=_SCORE,
    gates=_GATES,
)
def test_gating_is_what_a_loop_over_candidates_gives(rows: list, source_text: float, gates: GateConfig):
    made = [
        _row(number, [candidate[:3] for candidate in candidates], source_text=source_text)
        for number, candidates in enumerate(rows)
    ]
    excluded = [[candidate[3] for candidate in candidates] for candidates in rows]
    flat = [reason for reasons in excluded for reason in reasons]
    anew = _table(made, flat, gates)
    for row, given_row, reasons in zip(anew.to_pylist(), made, excluded, strict=True):
        assert (row["candidate_reasons"], row["rank"]) == _slow_choice(given_row, reasons, gates)
    assert sum(1 for _ in dropped_rows(anew)) == anew["target_id"].null_count


def test_a_gate_on_what_was_not_measured_is_an_error():
    row = _row(1, [(0.5, 0.5, 0.5)], source_text=None) | {"candidate_directional_similarities": []}
    assert _table([row])["target_id"].null_count == 0
    for gates in (GateConfig(directional_min=0.1), GateConfig(source_text_min=0.1)):
        with pytest.raises(MissingScoreError, match=r"was not measured.*caption_embeds"):
            _table([row], gates=gates)


def test_every_gate_has_a_reason_of_its_own():
    low = dict.fromkeys(("source_text_min", "target_text_min", "image_min", "directional_min"), 1.0)
    reasons = {
        _table([_row(1, [(0.5, 0.5, 0.5)])], gates=GateConfig(**gate))["candidate_reasons"][0][0].as_py()
        for gate in [*({name: value} for name, value in low.items()), {"image_max": -1.0}]
    }
    assert len(reasons) == len(fields(GateConfig))
    assert reasons < set(REJECTIONS)


@pytest.mark.parametrize(
    "gate", [{"image_min": 1.2}, {"directional_min": float("nan")}, {"image_min": 0.9, "image_max": 0.8}]
)
def test_thresholds_that_cannot_be_are_refused(gate: dict):
    with pytest.raises(ConfigError, match="GateConfig"):
        GateConfig(**gate)
