"""What a step of the loop computes: from caches and from pictures, in one batch and in parts; and when it stops."""

import dataclasses
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.true_pair_version import build_version, true_pairs
from iedit_model.errors import ConfigError
from iedit_model.training.config import LossConfig
from storage import ShardStore, VersionInfo
from tasks.errors import DivergedError, MissingPackageError, RunFolderError, TrainingRowsError
from tasks.train.run_config import CacheConfig, ComputeConfig, LoopConfig, RowsConfig
from tasks.train.run_folder import RunFolder
from tasks.train.stage import train
from tasks.train.train_log import read_log
from tests.builders.tiny_pipeline import PLAIN, prepared, tiny_run, tiny_train

FULL = LossConfig(lambda_perc=0.001, source_denoising_weight=0.5)


def weights(out: Path, step: int) -> dict[str, torch.Tensor]:
    tensors = load_file(out / f"checkpoints/step_{step:08d}/training/state.safetensors")
    return {name.removeprefix("weight."): value for name, value in tensors.items() if name.startswith("weight.")}


def own_store(folder: Path) -> ShardStore:
    """A store with the same version, of which no other test has filled the cache."""
    store = ShardStore.at(folder / "store")
    build_version(store, true_pairs(7))
    return store


@pytest.mark.parametrize("max_feature_gb", [64.0, 0.0], ids=["features kept", "pictures kept"])
def test_a_batch_from_the_cache_equals_one_that_is_encoded_anew(
    max_feature_gb: float, pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    cached = tiny_run(pipeline, tiny_train(FULL), cache=CacheConfig(max_feature_gb=max_feature_gb, batch_size=3))
    live = dataclasses.replace(cached, cache=CacheConfig(enabled=False, max_feature_gb=max_feature_gb))
    sources = [prepared(config, store, version, tmp_path) for config in (cached, live)]
    assert sources[0].cache is not None
    assert sources[1].cache is None
    ids = sources[0].parts.sample_ids[2:6]
    batches = [dict(one.parts.source.batch(ids).tensors()) for one in sources]
    perceptual = {"target_features"} if max_feature_gb else {"target_pixels", "target_pixel_mask"}
    assert batches[0].keys() == batches[1].keys() == EXPECTED_FIELDS | perceptual
    for name, expected in batches[1].items():
        torch.testing.assert_close(batches[0][name], expected, rtol=1e-5, atol=1e-5, msg=name)
    assert batches[0]["source_mask"].unique().tolist() == [0.0, 1.0]


def test_half_precision_halves_the_cache_and_rounds(
    pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    both = []
    for dtype in ("fp32", "fp16"):
        config = tiny_run(pipeline, tiny_train(), cache=CacheConfig(dtype=dtype))
        both.append(prepared(config, store, version, tmp_path))
    whole, half = (one.parts.source.batch(one.parts.sample_ids) for one in both)
    assert torch.equal(half.source_latents, whole.source_latents.half().float())
    assert torch.equal(half.prompt_embeds, whole.prompt_embeds.half().float())
    assert half.source_mask is not None
    assert whole.source_mask is not None
    assert torch.equal(half.source_mask, whole.source_mask)
    sizes = [one.cache.num_bytes for one in both if one.cache is not None]
    assert sizes[1] < 0.6 * sizes[0]


EXPECTED_FIELDS = {
    *("source_latents", "target_latents", "prompt_embeds", "source_prompt_embeds"),
    *("source_mask", "target_mask", "source_pixel_mask", "text_embeds", "diff_text_embeds"),
}


def test_training_from_pictures_gives_the_weights_of_training_from_the_cache(
    pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    for enabled in (True, False):
        fields = {"num_steps": 2, "adam_epsilon": 1.0, "learning_rate": 1.0}
        config = tiny_run(pipeline, tiny_train(FULL, **fields), cache=CacheConfig(enabled=enabled))
        train(version.id, config, store, tmp_path / str(enabled))
    start = prepared(tiny_run(pipeline), store, version, tmp_path / "new").parts.learner.weights(averaged=False)
    assert relative_distance(weights(tmp_path / "False", 2), weights(tmp_path / "True", 2), start) < 1e-3


def relative_distance(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], start: dict[str, torch.Tensor]
) -> float:
    """How far two trainings ended from each other, in units of the way that they went."""
    moved = torch.cat([(expected[name] - start[name]).flatten() for name in expected])
    assert float(moved.abs().max()) > 1e-6
    apart = torch.cat([(found[name] - expected[name]).flatten() for name in expected])
    return float(apart.norm() / moved.norm())


def test_the_cache_is_filled_once_and_shared_by_other_losses(
    pipeline: Path, version: VersionInfo, store: ShardStore, tmp_path: Path
) -> None:
    config = tiny_run(pipeline, tiny_train(LossConfig(lambda_perc=0.1, latent_mask_threshold=0.25)))
    first = prepared(config, store, version, tmp_path / "a").cache
    assert first is not None
    assert first.num_encoded == first.num_samples == 7
    files = {path: path.stat().st_mtime_ns for path in (Path(store.files.root) / "train").rglob("*.safetensors")}
    plain = prepared(tiny_run(pipeline, tiny_train(config.train.loss)), store, version, tmp_path / "b").cache
    assert plain is not None
    assert plain.num_encoded == 0
    assert {path: path.stat().st_mtime_ns for path in files} == files


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(CacheConfig) if field.name != "enabled"])
def test_every_cache_setting_that_decides_a_run_decides_the_address_of_its_encodings(
    field: str, pipeline: Path, version: VersionInfo, tmp_path: Path
) -> None:
    """Whoever fills the cache first must not decide the bits of a later run with other settings."""
    own = own_store(tmp_path)
    values = {"dtype": "fp16", "batch_size": 5, "decode_threads": 1, "max_feature_gb": 63.0}
    runs = [
        prepared(tiny_run(pipeline, cache=cache), own, version, tmp_path / str(number))
        for number, cache in enumerate((CacheConfig(), dataclasses.replace(CacheConfig(), **{field: values[field]})))
    ]
    same_run = runs[0].manifest["fingerprint"] == runs[1].manifest["fingerprint"]
    assert runs[1].cache is not None
    assert (runs[1].cache.num_encoded == 0) is same_run


def test_a_run_has_the_same_weights_whoever_filled_the_cache_before(
    pipeline: Path, version: VersionInfo, tmp_path: Path
) -> None:
    def run(batch_size: int, at: ShardStore, out: str) -> dict[str, torch.Tensor]:
        train(version.id, tiny_run(pipeline, cache=CacheConfig(batch_size=batch_size)), at, tmp_path / out)
        return weights(tmp_path / out, 6)

    alone = run(3, own_store(tmp_path / "first"), "alone")
    filled = own_store(tmp_path / "second")
    run(16, filled, "other")
    after = run(3, filled, "after")
    assert [name for name in alone if not torch.equal(alone[name], after[name])] == []


def test_accumulation_gives_the_weights_of_the_large_batch(
    pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    for name, batch_size, accumulation in (("parts", 2, 3), ("whole", 6, 1)):
        loss = dataclasses.replace(FULL, prompt_dropout=0.3)
        # With the default epsilon Adam's first step is the gradient's sign, which blows up the rounding of tiny ones.
        fields = {"num_steps": 3, "batch_size": batch_size, "accumulation": accumulation, "adam_epsilon": 1.0}
        train(version.id, tiny_run(pipeline, tiny_train(loss, **fields)), store, tmp_path / name)
    start = prepared(tiny_run(pipeline), store, version, tmp_path / "new").parts.learner.weights(averaged=False)
    assert relative_distance(weights(tmp_path / "parts", 3), weights(tmp_path / "whole", 3), start) < 1e-3


def test_the_average_follows_its_closed_form(
    pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    loop = LoopConfig(sinks=(), save_every=1, keep_last=10)
    train(version.id, tiny_run(pipeline, tiny_train(num_steps=6, ema_decay=0.3), loop=loop), store, tmp_path)
    start = prepared(tiny_run(pipeline), store, version, tmp_path / "new").parts.learner.weights(averaged=False)
    average = {name: value.double() for name, value in start.items()}
    for step in range(6):
        decay = min(0.3, (1 + step) / (10 + step))
        current = weights(tmp_path, step + 1)
        average = {name: decay * average[name] + (1 - decay) * current[name].double() for name in average}
    saved = load_file(tmp_path / "checkpoints/latest/training/state.safetensors")
    for name, expected in average.items():
        torch.testing.assert_close(saved[f"average.{name}"].double(), expected, rtol=1e-5, atol=1e-7)


def test_only_the_turn_s_parameters_move(
    pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    loop = LoopConfig(sinks=(), save_every=1, keep_last=10)
    train(version.id, tiny_run(pipeline, tiny_train(num_steps=2), loop=loop), store, tmp_path)
    first, second = weights(tmp_path, 1), weights(tmp_path, 2)
    start = prepared(tiny_run(pipeline), store, version, tmp_path / "new").parts.learner.weights(averaged=False)
    moved = [
        {name for name in first if not torch.equal(*pair(name))}
        for pair in (lambda name: (start[name], first[name]), lambda name: (first[name], second[name]))
    ]
    assert {name.split(".")[0] for name in moved[0]} == {"conv_in", "down_blocks"}
    assert {name.split(".")[0] for name in moved[1]} == {"mid_block"}


def test_weights_that_became_nan_stop_the_run_with_the_step_the_samples_and_the_checkpoint(
    pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    loop = LoopConfig(sinks=(), save_every=1)
    config = tiny_run(pipeline, tiny_train(learning_rate=1e30, layers="all", num_steps=9), loop=loop)
    with pytest.raises(DivergedError, match=r"last good checkpoint: .*step_00000001") as caught:
        train(version.id, config, store, tmp_path)
    assert caught.value.step == 1
    assert len(caught.value.sample_ids) == 2
    assert set(caught.value.sample_ids) <= set(
        prepared(tiny_run(pipeline), store, version, tmp_path / "x").parts.sample_ids
    )
    assert caught.value.checkpoint == str(tmp_path / "checkpoints/step_00000001")
    assert [row["step"] for row in read_log(tmp_path / "log.parquet").to_pylist()] == [0]


def test_what_the_message_of_a_diverged_run_advises_is_taken_by_the_next_command(
    pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    wild, calm = (tiny_train(learning_rate=rate, layers="all", num_steps=2) for rate in (1e30, 1e-4))
    with pytest.raises(DivergedError, match="start again in this or another folder"):
        train(version.id, tiny_run(pipeline, wild), store, tmp_path / "at_once")
    assert train(version.id, tiny_run(pipeline, calm), store, tmp_path / "at_once").step == 2
    saving = LoopConfig(sinks=(), save_every=1)
    with pytest.raises(DivergedError, match="start again in another folder"):
        train(version.id, tiny_run(pipeline, wild, loop=saving), store, tmp_path / "later")
    with pytest.raises(RunFolderError, match=r"train\.learning_rate is 0\.0001 and was 1e\+30"):
        train(version.id, tiny_run(pipeline, calm, loop=saving), store, tmp_path / "later")


def test_weights_that_are_not_finite_are_never_saved(
    pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(pipeline, tmp_path / "base"))
    weights_file = base / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(weights_file)
    save_file(tensors | {"conv_in.bias": torch.full_like(tensors["conv_in.bias"], 2)}, weights_file)
    # The decay takes 3e38 times each weight away.
    config = tiny_run(base, tiny_train(learning_rate=1e30, weight_decay=3e8, layers="all", num_steps=1))
    with pytest.raises(DivergedError, match=r"weight\..* is not finite after the update; last good checkpoint: none"):
        train(version.id, config, store, tmp_path / "run")
    assert RunFolder(tmp_path / "run").saved_steps() == []


def test_an_exploding_loss_stops_the_run_where_it_first_exceeds_the_factor(
    pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    fields = {"num_steps": 40, "batch_size": 1, "layers": "middle", "learning_rate": 1e-9}
    train(version.id, tiny_run(pipeline, tiny_train(**fields)), store, tmp_path / "free")
    losses = [row["loss"] for row in read_log(tmp_path / "free/log.parquet").to_pylist()]
    exceeding = [step for step in range(20, 40) if losses[step] > 1.5 * sum(losses[:step]) / step]
    assert exceeding
    loop = LoopConfig(sinks=(), explosion_factor=1.5)
    with pytest.raises(DivergedError, match=r"over 1\.5 times its recent mean") as caught:
        train(version.id, tiny_run(pipeline, tiny_train(**fields), loop=loop), store, tmp_path / "guarded")
    assert caught.value.step == exceeding[0]
    assert caught.value.checkpoint is None


def test_the_clipped_gradient_moves_weights_as_a_gradient_of_that_norm(
    pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    """Far above the gradients' size, epsilon makes Adam's first step gradient / epsilon times the rate."""
    fields = {"num_steps": 1, "adam_epsilon": 1e3, "learning_rate": 1e3, "weight_decay": 0.0, "layers": "all"}
    start = prepared(tiny_run(pipeline), store, version, tmp_path / "new").parts.models.unet.state_dict()
    moved = {}
    for name, limit in (("free", None), ("clipped", 0.01)):
        train(version.id, tiny_run(pipeline, tiny_train(max_grad_norm=limit, **fields)), store, tmp_path / name)
        after = weights(tmp_path / name, 1)
        moved[name] = torch.cat([(after[key] - start[f"unet.{key}"]).flatten() for key in after]).norm().item()
    norm = read_log(tmp_path / "free/log.parquet")["grad_norm"][0].as_py()
    assert norm > 0.02
    assert moved["free"] == pytest.approx(norm, rel=1e-2)
    assert moved["clipped"] == pytest.approx(0.01, rel=1e-2)


def test_the_warm_up_and_the_log_agree_with_the_configuration(
    pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    config = tiny_run(pipeline, tiny_train(FULL, num_steps=4, warmup_steps=2, schedule="cosine", learning_rate=0.01))
    report = train(version.id, config, store, tmp_path)
    rows = read_log(tmp_path / "log.parquet").to_pylist()
    expected = [0.005, 0.01, 0.01, 0.01 * 0.5 * (1 + math.cos(math.pi / 2))]
    assert [row["learning_rate"] for row in rows] == pytest.approx(expected)
    for row in rows:
        parts = [row[f"part_{name}"] for name in ("noise", "global", "loc", "perc", "source_denoising")]
        assert sum(parts) == pytest.approx(row["loss"], rel=1e-5)
        assert row["part_perc"] == pytest.approx(0.001 * row["term_perc"], rel=1e-5)
        assert row["part_target_denoising"] is None
    assert [row["epoch"] for row in rows] == pytest.approx([0, 2 / 7, 4 / 7, 6 / 7])
    assert report.mean_loss == pytest.approx(sum(row["loss"] for row in rows) / 4, rel=1e-6)


def test_lambda_perc_is_calibrated_to_its_share_and_recorded(
    pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    measured = LossConfig(lambda_perc=0.0)
    fixed = tiny_train(measured, num_steps=3, learning_rate=1e-30, batch_size=2)
    train(version.id, tiny_run(pipeline, fixed), store, tmp_path / "measured")
    rows = read_log(tmp_path / "measured/log.parquet").to_pylist()
    expected = 0.2 * sum(row["part_noise"] for row in rows) / sum(row["term_perc"] for row in rows)
    loop = LoopConfig(sinks=(), calibration_samples=6, calibration_share=0.2)
    config = tiny_run(pipeline, tiny_train(LossConfig(), num_steps=1, batch_size=2), loop=loop)
    report = train(version.id, config, store, tmp_path / "calibrated")
    assert report.lambda_perc == pytest.approx(expected, rel=1e-4)
    manifest = RunFolder(tmp_path / "calibrated").read_json("run.json") or {}
    assert manifest["lambda_perc"] == report.lambda_perc


def test_bf16_trains_close_to_fp32(pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        train(version.id, tiny_run(pipeline, tiny_train(precision=precision)), store, tmp_path / precision)
        losses[precision] = read_log(tmp_path / precision / "log.parquet")["loss"].to_pylist()
        dtypes = {value.dtype for value in weights(tmp_path / precision, 6).values()}
        assert dtypes == {torch.float32}
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_the_control_source_trains_on_the_source_alone(
    pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    both = [
        prepared(tiny_run(pipeline, rows=RowsConfig(prompts=name)), store, version, tmp_path / name).parts
        for name in ("edit", "source")
    ]
    batches = [parts.source.batch(parts.sample_ids) for parts in both]
    source = batches[1]
    torch.testing.assert_close(source.target_latents, source.source_latents, rtol=0, atol=0)
    torch.testing.assert_close(source.source_latents, batches[0].source_latents)
    assert not torch.equal(source.prompt_embeds, batches[0].prompt_embeds)
    assert source.source_mask is not None
    assert source.target_mask is not None
    assert torch.equal(source.source_mask, source.target_mask)


def test_the_caption_data_takes_the_alt_texts_of_both_images(
    pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    """The planted alt texts are the same for every pair, the captions are not."""
    parts = prepared(tiny_run(pipeline, rows=RowsConfig(prompts="caption")), store, version, tmp_path).parts
    batch = parts.source.batch(parts.sample_ids)
    assert bool((batch.prompt_embeds == batch.prompt_embeds[:1]).all())


def test_a_filter_chooses_the_rows(pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path) -> None:
    everything = prepared(tiny_run(pipeline), store, version, tmp_path / "all")
    wanted = everything.parts.sample_ids[3]
    chosen = tiny_run(pipeline, rows=RowsConfig(where=f"sample_id == '{wanted}'"))
    found = prepared(chosen, store, version, tmp_path / "one")
    assert (found.parts.sample_ids, found.left_out) == ((wanted,), {"filter": 6})
    two = prepared(tiny_run(pipeline, rows=RowsConfig(max_samples=2)), store, version, tmp_path / "two")
    assert (two.parts.sample_ids, two.left_out) == (everything.parts.sample_ids[:2], {"max_samples": 5})
    none = tiny_run(pipeline, rows=RowsConfig(where="similarity > 2"))
    with pytest.raises(TrainingRowsError, match="has 7 samples in the split 'train', of which none is left"):
        prepared(none, store, version, tmp_path / "none")


def test_samples_with_an_empty_mask_are_left_out_before_the_first_batch(
    pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    """At a threshold of 1 only objects that cover a whole cell leave anything of their masks."""
    keeping = dataclasses.replace(PLAIN, latent_mask_threshold=1.0)
    kept = prepared(tiny_run(pipeline, tiny_train(keeping)), store, version, tmp_path / "kept").parts
    batch = kept.source.batch(kept.sample_ids)
    assert batch.source_mask is not None
    assert batch.target_mask is not None
    whole = [bool(a.any() and b.any()) for a, b in zip(batch.source_mask, batch.target_mask, strict=True)]
    assert 0 < sum(whole) < 7, "the planted pairs no longer show the case"
    dropping = dataclasses.replace(keeping, empty_mask="drop")
    found = prepared(tiny_run(pipeline, tiny_train(dropping)), store, version, tmp_path / "dropped")
    assert found.parts.sample_ids == tuple(
        sample_id for sample_id, is_whole in zip(kept.sample_ids, whole, strict=True) if is_whole
    )
    assert found.left_out == {"empty_mask": 7 - sum(whole)}


def test_8_bit_moments_without_bitsandbytes_are_one_clear_error(
    pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    try:
        import bitsandbytes  # noqa: F401 # pyright: ignore[reportMissingImports]
    except ImportError:
        with pytest.raises(MissingPackageError, match="needs the package bitsandbytes"):
            train(version.id, tiny_run(pipeline, tiny_train(eight_bit_optimizer=True)), store, tmp_path)
    else:
        pytest.skip("bitsandbytes is installed")


def test_a_loss_without_its_model_and_a_precision_without_its_hardware_are_refused(
    pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    without = dataclasses.replace(tiny_run(pipeline, tiny_train(FULL)), clip=None)
    with pytest.raises(ConfigError, match="use_global or use_loc needs the model 'clip'"):
        train(version.id, without, store, tmp_path)
    half = tiny_run(pipeline, tiny_train(precision="fp16"), compute=ComputeConfig(device="cpu"))
    with pytest.raises(ConfigError, match="fp16 was asked for"):
        train(version.id, half, store, tmp_path)
