import numpy as np
import pytest
from PIL import Image, ImageDraw

from iedit_model.errors import ConfigError
from tasks.embed.layout import LAYOUT_DIM, LayoutError, layout_descriptor, layout_descriptors
from tasks.retrieve.pair_scores import MissingScoreError, PairScores, RerankConfig, ranking_scores, reranked


def _scores(**changed) -> PairScores:
    given = {
        "similarity": np.array([[0.9, 0.8, 0.7]]),
        "source_text": np.array([0.3]),
        "target_text": np.array([[0.1, 0.2, 0.3]]),
        "image": np.array([[0.5, 0.5, 0.5]]),
        "directional": np.array([[0.0, 0.4, 0.1]]),
        "layout": np.array([[0.2, 0.2, 0.9]]),
    }
    return PairScores(**(given | changed))


def test_the_paper_ranks_by_the_query_alone():
    assert ranking_scores(_scores(), RerankConfig()) == pytest.approx(np.array([[0.9, 0.8, 0.7]]))


def test_a_ranking_score_is_the_mean_under_the_weights():
    config = RerankConfig(similarity=1, directional=2, layout=1, target_text=0.5, image=0.5)
    expected = [
        (query + 2 * direction + layout + 0.5 * text + 0.25) / 5
        for query, direction, layout, text in ((0.9, 0, 0.2, 0.1), (0.8, 0.4, 0.2, 0.2), (0.7, 0.1, 0.9, 0.3))
    ]
    assert ranking_scores(_scores(), config)[0] == pytest.approx(expected)


def test_equal_scores_are_ordered_by_position_and_the_excluded_come_last_as_they_were():
    scores = np.array([[0.2, 0.5, 0.5 + 3e-7, 0.9, 0.9, 0.0]])
    positions = np.array([[5, 8, 3, 9, 2, -1]])
    eligible = np.array([[True, True, True, False, False, False]])
    order = reranked(scores, positions, eligible)
    assert positions[0][order[0]].tolist() == [3, 8, 5, 9, 2, -1]


def test_a_weight_on_what_was_not_measured_is_an_error():
    with pytest.raises(MissingScoreError, match=r"rerank.layout is 1.*layout_embeds"):
        ranking_scores(_scores(layout=None), RerankConfig(layout=1))
    assert ranking_scores(_scores(layout=None), RerankConfig(directional=1)).shape == (1, 3)


@pytest.mark.parametrize("weights", [{"similarity": 0}, {"layout": -1}, {"image": float("nan")}])
def test_weights_that_cannot_be_are_refused(weights: dict):
    with pytest.raises(ConfigError, match="RerankConfig"):
        RerankConfig(**weights)


def _drawn(shape: str, colour: str, *, at: int, ground: str = "white", size: int = 64) -> np.ndarray:
    image = Image.new("RGB", (64, 64), ground)
    draw = ImageDraw.Draw(image)
    (draw.ellipse if shape == "ball" else draw.rectangle)((at, 20, at + 22, 42), fill=colour)
    return np.asarray(image.resize((size, size), Image.Resampling.NEAREST))


def _alike(one: np.ndarray, other: np.ndarray) -> float:
    return float(layout_descriptor(one) @ layout_descriptor(other))


def test_a_descriptor_is_a_unit_vector_whatever_the_picture():
    noise = np.random.default_rng(0).integers(0, 256, (37, 90, 3), np.uint8)
    for image in (
        noise,
        np.zeros((1, 1, 3), np.uint8),
        np.full((512, 20, 3), 255, np.uint8),
        _drawn("box", "red", at=5),
    ):
        descriptor = layout_descriptor(image)
        assert descriptor.shape == (LAYOUT_DIM,)
        assert np.linalg.norm(descriptor) == pytest.approx(1, abs=1e-6)


def _cell_by_cell(image: np.ndarray) -> np.ndarray:
    """Return the descriptor of a 64 x 64 picture by loops over its cells."""
    levels, edges = image.astype(float) / 255, np.zeros((64, 64))
    edges[:-1] += np.abs(np.diff(levels, axis=0)).max(axis=2)
    edges[:, :-1] += np.abs(np.diff(levels, axis=1)).max(axis=2)
    corners = [(top, left) for top in range(0, 64, 8) for left in range(0, 64, 8)]
    edge_part = np.array([edges[top : top + 8, left : left + 8].mean() for top, left in corners])
    colour_part = np.array([levels[top : top + 8, left : left + 8].mean(axis=(0, 1)) for top, left in corners]).ravel()
    parts = []
    for part in (edge_part - edge_part.mean(), colour_part - 0.5):
        length = np.linalg.norm(part)
        parts.append(part / length if length > 1e-9 else 0 * part)
    whole = np.concatenate(parts)
    return whole / np.linalg.norm(whole)


def test_a_descriptor_is_what_its_cells_say_in_whatever_batch():
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(5)]
    images += [_drawn("box", "red", at=5), np.full((64, 64, 3), 9, np.uint8)]
    together = layout_descriptors(images)
    for image, descriptor in zip(images, together, strict=True):
        assert descriptor == pytest.approx(_cell_by_cell(image), abs=1e-6)
        assert np.array_equal(descriptor, layout_descriptor(image))


def test_another_colour_or_thing_in_the_same_place_is_closer_than_the_same_thing_elsewhere():
    source = _drawn("box", "red", at=5)
    assert _alike(source, source) == pytest.approx(1, abs=1e-6)
    moved = _alike(source, _drawn("box", "red", at=36))
    assert _alike(source, _drawn("box", "blue", at=5)) > moved + 0.1
    assert _alike(source, _drawn("ball", "red", at=5)) > moved + 0.1


def test_another_ground_is_less_alike():
    source = _drawn("box", "red", at=20)
    assert (
        _alike(source, _drawn("box", "blue", at=20)) > _alike(source, _drawn("box", "red", at=20, ground="black")) + 0.2
    )


def test_size_does_not_matter():
    assert _alike(_drawn("ball", "green", at=9), _drawn("ball", "green", at=9, size=256)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_picture_is_refused(image: np.ndarray):
    with pytest.raises(LayoutError, match="uint8 image"):
        layout_descriptor(image)
