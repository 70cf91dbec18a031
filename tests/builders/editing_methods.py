"""The miniature's weights and true pairs as the editing tests take them."""

from functools import cache

import numpy as np

from iedit_model.editing.diffedit import ContrastConfig
from iedit_model.editing.editor import EditRequest
from iedit_model.editing.instruct_editor import InstructSampling
from iedit_model.editing.registry import EditorModels, EditorSettings
from iedit_model.editing.settings import SamplingConfig
from iedit_model.models.latent_diffusion import LatentDiffusion, LatentDiffusionSpec, load_latent_diffusion
from iedit_model.models.source import ModelSource
from miniature.pairs import TruePair, true_pair
from miniature.world import World
from tests.builders.vision_folders import CPU, WEIGHTS

MODELS = EditorModels(
    base=ModelSource(str(WEIGHTS / "ldm")),
    tuned=ModelSource(str(WEIGHTS / "ldm")),
    instruct=ModelSource(str(WEIGHTS / "instruct_pix2pix")),
    segmenter=ModelSource(str(WEIGHTS / "segmenter")),
)


def mini_ldm() -> LatentDiffusion:
    """The miniature's latent diffusion model in fp32."""
    return load_latent_diffusion(LatentDiffusionSpec(model=ModelSource(str(WEIGHTS / "ldm")), device=CPU))


def quick_settings(**changes: object) -> EditorSettings:
    """Few steps on the CPU in fp32, for tests that do not judge images."""
    values: dict[str, object] = {
        "device": CPU,
        "sampling": SamplingConfig(num_inference_steps=4),
        "instruct": InstructSampling(num_inference_steps=2),
        "contrast": ContrastConfig(num_maps=2),
        **changes,
    }
    return EditorSettings(**values)  # pyright: ignore[reportArgumentType]


@cache
def single_pairs(count: int, *, seed: int = 0) -> tuple[TruePair, ...]:
    """True pairs of scenes with one object, from no scene that the family saw in training."""
    rng = np.random.default_rng(seed)
    scenes = (World(seed + 900_001).scene(index) for index in range(10 * count))
    singles = [scene for scene in scenes if len(scene.objects) == 1][:count]
    return tuple(true_pair(scene, rng, only_seen=True) for scene in singles)


def request_of(pair: TruePair, *, seed: int = 0, with_mask: bool = False) -> EditRequest:
    """The request that a pair makes; the true mask only where it is asked for."""
    return EditRequest(
        image=pair.source.render(),
        edit_prompt=pair.edit_prompt,
        source_prompt=pair.source.caption,
        word=pair.source_diff,
        replacement=pair.target_diff,
        mask=pair.source.masks()[pair.position].astype(np.float32) if with_mask else None,
        seed=seed,
    )
