"""Results of an evaluation that nobody ran: values that a test knows."""

import numpy as np

from tasks.evaluate.results import NOT_TRAINED, Results, results_schema

METRICS = ("clip_score@mini", "clip_score@held-out", "ssim_zero_fill_outside", "mask_area")


def made_up(levels, *, evalsets=("real",), num_sources=8, pairs_a_source=2, seeds=(0, 1), noise=1.0, failures=()):
    """Return results whose values are a level a method plus noise that all methods of an edit share.

    Args:
        levels: (method, training seed) -> level of clip_score; ssim_zero_fill_outside is a hundredth of it.
        evalsets: names of sets.
        num_sources: images a set.
        pairs_a_source: pairs an image.
        seeds: draws.
        noise: size of the common noise.
        failures: (method, pair number) that failed.
    """
    rows = []
    for evalset in evalsets:
        rng = np.random.default_rng(len(evalset))
        shared = rng.normal(0, noise, (num_sources, pairs_a_source, len(seeds)))
        for (method, train_seed), level in levels.items():
            for source in range(num_sources):
                for number in range(pairs_a_source):
                    for position, seed in enumerate(seeds):
                        pair = source * pairs_a_source + number
                        failed = (method, pair) in failures
                        value = None if failed else level + float(shared[source, number, position])
                        rows.append(
                            {
                                "evalset": evalset,
                                "method": method,
                                "train_seed": NOT_TRAINED if train_seed is None else train_seed,
                                "pair_id": f"{pair:04d}",
                                "image_id": f"image-{source}",
                                "seed": seed,
                                "kind": ("noun", "colour")[pair % 2],
                                "failure": "empty_mask" if failed else None,
                                "num_unet_evaluations": None if failed else 50,
                                "seconds": None if failed else 0.25,
                                "clip_score@mini": value,
                                "clip_score@held-out": None if value is None else value - 1,
                                "ssim_zero_fill_outside": None if value is None else value / 100,
                                "mask_area": None if failed else 0.2,
                            }
                        )
    return Results(table=results_schema(METRICS).table(rows), metrics=tuple(sorted(METRICS)))


PAPER_LIKE = {("sdedit", None): 62.0, ("instruct_pix2pix", None): 65.0, ("iedit", 0): 66.0, ("iedit", 1): 67.0} | {
    ("iedit_m", seed): 68.0 + seed for seed in (0, 1)
}
