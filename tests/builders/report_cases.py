"""A small evaluation with real images for tests of the report: hostile words, several methods, made-up numbers."""

import numpy as np

from iedit_model.editing.references import CopySource, CopySourceSpec
from iedit_model.imaging.encode import encode_image
from iedit_model.metrics.bootstrap import BootstrapConfig
from storage import ShardStore
from tasks.evaluate.record import Provenance, write_evaluation
from tasks.evaluate.results import NOT_TRAINED, MethodScores, Results, results_schema
from tasks.evaluate.sets.evalset import EvalSetInfo
from tasks.evaluate.sets.folder import NewPair, write_evalset
from tasks.evaluate.stage import EditingConfig, edit_shard
from tasks.evaluate.summary import SetMetric, SummaryConfig

HOSTILE = (
    '</script><script>document.title="hacked"</script>',
    '<img src=x onerror="document.title=1">',
    '"><svg onload=alert(1)>',
    "{{ 7*7 }} {% include 'x' %} & < > \" '",
    "\u202e right to left \u2028 line separator",
    "a bus \\input{/etc/passwd} $x_1$ 50 %",
)
LEVELS = {
    "sdedit": (62.6, 0.55),
    "instruct_pix2pix": (65.1, 0.76),
    "inpaint": (66.9, 0.8),
    "iedit": (65.8, 0.6),
    "iedit_m": (66.4, 0.78),
    "copy_source": (50.0, 1.0),
    "vae_round_trip": (49.0, 0.97),
    "<b>own</b>": (60.0, 0.5),
}
METRICS = (
    *("clip_score@mini", "clip_score@held-out", "clip_cosine@mini", "clip_directional@mini", "mask_area"),
    *("ssim_zero_fill_inside", "ssim_zero_fill_outside", "ssim_normconv_outside", "psnr_outside"),
)
CONFIG = EditingConfig(size_px=64, seeds=(0, 1))


def hostile_set(root, *, name, origin, num_images=4):
    """Write pairs whose words are attacks."""
    from PIL import Image

    rng = np.random.default_rng(len(name))
    rows = []
    for index in range(num_images):
        pixels = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        mask = np.zeros((64, 64), bool)
        mask[16:48, 8 : 24 + 8 * index] = True
        for number in range(2):
            words = HOSTILE[(2 * index + number) % len(HOSTILE)].replace("\u2028", " ")
            rows.append(
                NewPair(
                    pair_id=f"{index}{number}",
                    image_id=f"image-{index}",
                    image=encode_image(Image.fromarray(pixels)),
                    source_prompt=f"source {words}",
                    edit_prompt=f"edit {words}",
                    word="</p>" if index else None,
                    kind=("noun", "colour")[number],
                    mask=mask if index else None,
                    mask_origin="truth" if index else "none",
                )
            )
    info = EvalSetInfo(name=name, origin=origin, description=f"Made up <i>{origin}</i> pairs.", license="none & <b>")
    return write_evalset(root, info, rows)


def small_evaluation(folder, *, num_images=4):
    """Return (evaluation, store, runs): numbers are made up, images are copies of the sources."""
    sets = [
        hostile_set(folder / origin, name=f"hostile-{origin}", origin=origin, num_images=num_images)
        for origin in ("generated", "real")
    ]
    store = ShardStore.at(folder / "store")
    runs, rows, distances = [], [], {}
    for evalset in sets:
        rng = np.random.default_rng(len(evalset.info.name))
        shared = rng.normal(0, 3, (len(evalset.pairs), 2))
        edits = edit_shard(evalset, evalset.pairs, CONFIG, store, CopySource(CopySourceSpec()), shard="00000")
        for method, (clip, ssim) in LEVELS.items():
            runs.append(MethodScores(evalset=evalset, method=method, edits=(edits,), scores=(), seeds=CONFIG.seeds))
            rows += [
                _row(evalset, method, pair, seed, clip, ssim, float(shared[position, seed]))
                for position, pair in enumerate(evalset.pairs)
                for seed in CONFIG.seeds
            ]
        distances[evalset.info.name] = [
            SetMetric(
                method=method,
                name="fid@mini-vgg",
                value=100 + 2 * position,
                low=90.0 + position,
                high=110.0 + position,
                reference_set=f"the source images of {evalset.info.name}",
                num_reference=num_images,
                num_edited=len(evalset.pairs),
                num_sets=2,
                rank_deficient=True,
            )
            for position, method in enumerate(LEVELS)
        ]
    results = Results(table=results_schema(METRICS).table(rows), metrics=tuple(sorted(METRICS)))
    evaluation = write_evaluation(
        store.files,
        results,
        model="hostile",
        config=SummaryConfig(bootstrap=BootstrapConfig(num_resamples=300), training_clip="mini"),
        infos={evalset.info.name: evalset.info for evalset in sets},
        provenance=Provenance(
            created="2026-01-02T03:04:05+00:00",
            commit="",
            is_dirty=False,
            code="0123456789abcdef",
            config='{"note": "</pre><script>alert(1)</script>"}',
            models={"base": "<b>weights</b>"},
            evalsets={evalset.info.name: evalset.digest for evalset in sets},
            packages={"torch": "2"},
            hardware={"machine": "x"},
        ),
        distances=distances,
    )
    return evaluation, store, runs


def _row(evalset, method, pair, seed, clip, ssim, shared):
    failed = method == "iedit_m" and pair.pair_id == "10" and seed == 1
    known = pair.mask is not None
    values = {
        "clip_score@mini": clip + shared,
        "clip_score@held-out": clip + 1 + shared,
        "clip_cosine@mini": (clip + shared) / 250,
        "clip_directional@mini": None if method == "copy_source" else 0.1 + shared / 100,
        "mask_area": 0.2 if known else None,
        "ssim_zero_fill_inside": min(1.0, 0.8 + shared / 100) if known else None,
        "ssim_zero_fill_outside": min(1.0, ssim + shared / 100) if known else None,
        "ssim_normconv_outside": min(1.0, ssim - 0.05 + shared / 100) if known else None,
        "psnr_outside": 20 + shared if known else None,
    }
    return {
        "evalset": evalset.info.name,
        "method": method,
        "train_seed": NOT_TRAINED,
        "pair_id": pair.pair_id,
        "image_id": pair.image_id,
        "seed": seed,
        "kind": pair.kind,
        "failure": "empty_mask" if failed else None,
        "num_unet_evaluations": None if failed else 70,
        "seconds": None if failed else 0.5,
        **{name: None if failed else value for name, value in values.items()},
    }
