"""The stage evaluate: edits and scores of a shard, their values, their accounts and their reruns."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from iedit_model.editing.editor import EditResult
from iedit_model.editing.references import CopySource, CopySourceSpec
from iedit_model.errors import ConfigError, MaskError
from iedit_model.models.source import ModelSource
from iedit_model.models.vgg import load_vgg
from storage import ShardStore, sample_seed
from tasks.evaluate.networks import load_networks
from tasks.evaluate.results import MethodScores, collect_results, read_features
from tasks.evaluate.stage import EditingConfig, edit_shard, pair_shards, reference_shard, score_shard
from tasks.evaluate.summary import measure_distances
from tests.builders.scoring_models import SCORING, WEIGHTS, few_pairs

CONFIG = EditingConfig(size_px=64, seeds=(0, 3), batch_size=5)


class Darkener:
    """Halves every level inside the given mask, or everywhere; refuses some words. Counts what it is asked."""

    name = "darkener"

    def __init__(self, *, refuses=(), fingerprint="darkener-1"):
        self.refuses, self.fingerprint, self.asked = refuses, fingerprint, []

    def edit(self, requests, /):
        self.asked.append(len(requests))
        if any(request.word in self.refuses for request in requests):
            raise MaskError("nothing found")
        results = []
        for request in requests:
            pixels = np.asarray(request.image).astype(int) // 2 + request.seed % 7
            results.append(
                EditResult(
                    image=Image.fromarray(pixels.astype(np.uint8)),
                    mask=request.mask_array,
                    seconds=0.5,
                    num_unet_evaluations=14,
                )
            )
        return results


@pytest.fixture(scope="module")
def networks():
    return load_networks(SCORING)


@pytest.fixture
def evalset(tmp_path):
    return few_pairs(tmp_path / "set", without_mask=(1,), empty_mask=(2,))


@pytest.fixture
def store(tmp_path):
    return ShardStore.at(tmp_path / "store")


def test_every_pair_is_edited_with_every_seed_under_its_own_noise(evalset, store):
    report = edit_shard(evalset, evalset.pairs, CONFIG, store, Darkener(), shard="00000")
    rows = store.read_table(report).to_pylist()
    assert [(row["pair_id"], row["seed"]) for row in rows] == [(p.pair_id, s) for p in evalset.pairs for s in (0, 3)]
    assert report.num_in == report.num_out == 12
    assert report.extra["seconds_per_edit"] == 0.5
    for row in rows:
        import io

        source = np.asarray(evalset.image(evalset.pair(row["pair_id"]))).astype(int)
        seed = sample_seed(row["seed"], "evaluate", row["pair_id"])
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(row["edited_image"]))), source // 2 + seed % 7)
        assert row["num_unet_evaluations"] == 14


def test_a_finished_shard_is_read_and_not_edited_again(evalset, store):
    first = edit_shard(evalset, evalset.pairs, CONFIG, store, Darkener(), shard="00000")
    again = Darkener()
    assert edit_shard(evalset, evalset.pairs, CONFIG, store, again, shard="00000") == first
    assert again.asked == []
    other = Darkener(fingerprint="darkener-2")
    assert edit_shard(evalset, evalset.pairs, CONFIG, store, other, shard="00000").fingerprint != first.fingerprint
    assert sum(other.asked) == 12


def test_the_size_of_shards_changes_no_image(evalset, store):
    whole = edit_shard(evalset, evalset.pairs, CONFIG, store, Darkener(), shard="00000")
    parts = [
        edit_shard(evalset, pairs, CONFIG, store, Darkener(), shard=f"{index:05d}")
        for index, pairs in enumerate(pair_shards(evalset, pairs_per_shard=4))
    ]
    rows = [row for part in parts for row in store.read_table(part).to_pylist()]
    assert rows == store.read_table(whole).to_pylist()


def test_what_a_method_refuses_is_dropped_with_its_reason_and_the_rest_is_edited(evalset, store):
    word = evalset.pairs[4].word
    editor = Darkener(refuses=(word,))
    report = edit_shard(evalset, evalset.pairs, CONFIG, store, editor, shard="00000")
    refused = [pair.pair_id for pair in evalset.pairs if pair.word == word]
    assert dict(report.dropped) == {"empty_mask": 2 * len(refused)}
    assert report.num_out == 12 - 2 * len(refused)
    lost = store.read_dropped(report).to_pylist()
    assert {entry["sample_id"] for entry in lost} == {f"{pair_id}/{seed}" for pair_id in refused for seed in (0, 3)}


def test_masks_are_given_only_where_that_is_asked_for_and_there_is_one(evalset, store):
    given = edit_shard(evalset, evalset.pairs, replace(CONFIG, give_masks=True), store, Darkener(), shard="0")
    with_mask = {row["pair_id"] for row in store.read_table(given).to_pylist() if row["used_mask"] is not None}
    assert with_mask == {"0000", "0003", "0004", "0005"}
    alone = edit_shard(evalset, evalset.pairs, CONFIG, store, Darkener(), shard="0")
    assert all(row["used_mask"] is None for row in store.read_table(alone).to_pylist())


def test_scores_agree_with_the_networks_asked_one_by_one(evalset, store, networks):
    edits = edit_shard(evalset, evalset.pairs, CONFIG, store, Darkener(), shard="00000")
    scores = score_shard(edits, evalset, SCORING, store, networks, size_px=64)
    rows = {(row["pair_id"], row["seed"]): row for row in store.read_table(scores).to_pylist()}
    assert len(rows) == 12
    pair = evalset.pairs[3]
    seed = sample_seed(3, "evaluate", pair.pair_id)
    source = np.asarray(evalset.image(pair)).astype(np.float64)
    edited = np.asarray(evalset.image(pair)).astype(int) // 2 + seed % 7
    mask = evalset.mask(pair)
    assert mask is not None
    row = rows[pair.pair_id, 3]
    squared = ((source - edited) / 255) ** 2
    assert row["mse_inside"] == pytest.approx(squared[mask].mean(), rel=1e-5)
    assert row["mse_outside"] == pytest.approx(squared[~mask].mean(), rel=1e-5)
    assert row["mask_area"] == pytest.approx(mask.mean())
    for name, encoder in networks.encoders.items():
        image = encoder.encode_images([Image.fromarray(edited.astype(np.uint8))])[0]
        cosine = float(image @ encoder.encode_texts([pair.edit_prompt])[0])
        assert row[f"clip_score@{name}"] == pytest.approx(250 * max(cosine, 0), abs=1e-3)
        assert row[f"clip_cosine@{name}"] == pytest.approx(cosine, abs=1e-5)
    assert (row["seconds"], row["num_unet_evaluations"]) == (0.5, 14)


def test_masks_that_are_missing_or_empty_leave_their_metrics_undefined(evalset, store, networks):
    edits = edit_shard(evalset, evalset.pairs, CONFIG, store, Darkener(), shard="00000")
    table = store.read_table(score_shard(edits, evalset, SCORING, store, networks, size_px=64)).to_pylist()
    missing = next(row for row in table if row["pair_id"] == "0001")
    empty = next(row for row in table if row["pair_id"] == "0002")
    assert not missing["mask_known"]
    for name in ("mask_area", "ssim_zero_fill_inside", "ssim_normconv_outside", "psnr_outside"):
        assert missing[name] is None
    assert empty["mask_known"]
    assert empty["mask_area"] == 0
    assert empty["ssim_map_mean_inside"] is None
    assert empty["mse_outside"] == pytest.approx(empty["mse"])
    assert missing["ssim"] is not None


def test_copying_the_source_is_perfect_likeness_without_a_direction(evalset, store, networks):
    edits = edit_shard(evalset, evalset.pairs, CONFIG, store, CopySource(CopySourceSpec()), shard="00000")
    table = store.read_table(score_shard(edits, evalset, SCORING, store, networks, size_px=64)).to_pylist()
    for row in table:
        assert row["mse"] == 0
        assert row["ssim"] == pytest.approx(1)
        assert row["clip_image_similarity@mini"] == pytest.approx(1, abs=1e-5)
        assert row["clip_directional@mini"] is None


def test_scoring_in_other_batches_gives_the_same_numbers(evalset, store, networks):
    edits = edit_shard(evalset, evalset.pairs, CONFIG, store, Darkener(), shard="00000")
    tables = [
        store.read_table(score_shard(edits, evalset, replace(SCORING, batch_size=size), store, networks, size_px=64))
        for size in (1, 5, 12)
    ]
    for other in tables[1:]:
        for name in other.column_names:
            for first, second in zip(tables[0][name].to_pylist(), other[name].to_pylist(), strict=True):
                if isinstance(first, float):
                    # Matrix products of another height sum in another order.
                    assert second == pytest.approx(first, abs=2e-4), name
                else:
                    assert second == first


def test_the_reference_is_each_source_image_once(evalset, store, networks):
    report = reference_shard(evalset, SCORING, store, networks, size_px=64)
    features = read_features(store, [report], evalset="few")
    assert set(features) == {"mini-vgg", "mini", "held-out"}
    first = features["mini-vgg"]
    assert sorted(first.source_ids) == sorted({f"few/{pair.image_id}" for pair in evalset.pairs})
    image = np.asarray(evalset.image(evalset.pairs[0]))
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    position = first.source_ids.index(f"few/{evalset.pairs[0].image_id}")
    np.testing.assert_allclose(first.features[position], networks.features(pixels)[0].numpy(), rtol=1e-4, atol=1e-5)
    raw = load_vgg(ModelSource(str(WEIGHTS / "perceptual"))).pooled(pixels)[0].numpy()
    np.testing.assert_allclose(first.features[position], raw / np.sqrt((raw**2).mean()), rtol=1e-4, atol=1e-5)
    assert reference_shard(evalset, SCORING, store, networks, size_px=64) == report


def test_results_hold_a_row_for_every_edit_the_refused_ones_included(evalset, store, networks):
    word = evalset.pairs[4].word
    reports = []
    for editor in (Darkener(), Darkener(refuses=(word,), fingerprint="picky")):
        edits = [
            edit_shard(evalset, pairs, CONFIG, store, editor, shard=f"{index:05d}")
            for index, pairs in enumerate(pair_shards(evalset, pairs_per_shard=4))
        ]
        scores = [score_shard(one, evalset, SCORING, store, networks, size_px=64) for one in edits]
        reports.append((tuple(edits), tuple(scores)))
    runs = [
        MethodScores(evalset=evalset, method=name, edits=edits, scores=scores, seeds=CONFIG.seeds)
        for name, (edits, scores) in zip(("all", "picky"), reports, strict=True)
    ]
    results = collect_results(store, runs)
    assert results.table.num_rows == 24
    assert results.methods == ["all", "picky"]
    failed = [row for row in results.table.to_pylist() if row["failure"] is not None]
    assert {row["method"] for row in failed} == {"picky"}
    assert all(row["ssim"] is None and row["failure"] == "empty_mask" for row in failed)
    assert not math.isnan(results.table["seconds"][0].as_py())


def test_a_method_that_can_edit_nothing_has_rows_without_values_and_no_distance(evalset, store, networks):
    editors = {"copied": CopySource(CopySourceSpec()), "helpless": Darkener(refuses={p.word for p in evalset.pairs})}
    runs = []
    for name, editor in editors.items():
        edits = edit_shard(evalset, evalset.pairs, CONFIG, store, editor, shard="00000")
        scores = score_shard(edits, evalset, SCORING, store, networks, size_px=64)
        runs.append(MethodScores(evalset=evalset, method=name, edits=(edits,), scores=(scores,), seeds=CONFIG.seeds))
    results = collect_results(store, runs)
    lost = [row for row in results.table.to_pylist() if row["method"] == "helpless"]
    assert len(lost) == 12
    assert all(row["failure"] == "empty_mask" and row["ssim"] is None for row in lost)
    references = {"few": reference_shard(evalset, SCORING, store, networks, size_px=64)}
    distances = measure_distances(store, runs, references, encoders=["mini", "held-out"])
    assert {metric.method for metric in distances["few"]} == {"copied"}
    # The cost of the undefined is paid by nobody else: FID of copies is what pairs and images leave of 0.
    fid = next(metric for metric in distances["few"] if metric.name == "fid@mini-vgg")
    assert fid.num_reference == evalset.num_images
    assert fid.num_edited == len(evalset.pairs)


@pytest.mark.parametrize(
    "changes", [{"size_px": 4}, {"seeds": ()}, {"seeds": (1, 1)}, {"seeds": (-1,)}, {"batch_size": 0}]
)
def test_settings_without_meaning_are_refused(changes):
    with pytest.raises(ConfigError):
        replace(CONFIG, **changes)
