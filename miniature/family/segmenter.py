"""The segmenter of the family: CLIPSeg, trained from scratch to follow its prompt."""

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPSegProcessor, CLIPTokenizer, ViTImageProcessor

from miniature.family.clip import normalised
from miniature.family.loop import Recipe, train
from miniature.family.pool import Pool
from miniature.family.targets import PATCH_PX, PatchHeads, patch_targets
from miniature.family.tokenizers import CONTEXT_LENGTH
from miniature.family.vit import initialise_vit
from miniature.vocabulary import BACKGROUNDS, NOUNS
from miniature.world import SIZE_PX, Scene

TRUNK_RECIPE = Recipe(
    num_steps=1600, batch_size=64, learning_rate=1e-3, weight_decay=0.02, betas=(0.9, 0.98), decay_share=0.3, seed=4
)
"""First the vision tower alone learns what stands where, as CLIP's has when CLIPSeg starts from it.

Trained together from the start, the tower never gets beyond "something is there": the decoder is content with that.
"""
RECIPE = Recipe(
    num_steps=4000, batch_size=48, learning_rate=8e-4, weight_decay=0.02, betas=(0.9, 0.98), ema_decay=0.998, seed=4
)
WIDTH = 128
EXTRACT_LAYERS = (0, 1, 2)
_TWO_OBJECT_SHARE = 0.5
_ABSENT_SHARE = 0.25
_BACKGROUND_SHARE = 0.08


def build_segmenter(tokenizer: CLIPTokenizer) -> CLIPSegForImageSegmentation:
    """Return an untrained CLIPSeg: 64 px, patch 8, 128 wide, 3 layers."""
    config = CLIPSegConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 96,
            "intermediate_size": 384,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "max_position_embeddings": CONTEXT_LENGTH,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "image_size": SIZE_PX,
            "patch_size": PATCH_PX,
            "hidden_size": WIDTH,
            "intermediate_size": 512,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
        },
        projection_dim=128,
        reduce_dim=64,
        decoder_intermediate_size=256,
        extract_layers=list(EXTRACT_LAYERS),
        conditional_layer=0,
        # The stacked transposed convolution of rd64-refined only fits a patch of 16.
        use_complex_transposed_convolution=False,
    )
    config._attn_implementation = "eager"
    model = CLIPSegForImageSegmentation(config)
    vision: Any = model.clip.vision_model
    initialise_vit(vision, vision.embeddings.position_embedding.weight)
    return model


class _Trainable(nn.Module):
    def __init__(self, model: CLIPSegForImageSegmentation) -> None:
        super().__init__()
        self.model = model
        self.heads = PatchHeads(WIDTH)

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        # CLIPSeg's own forward runs both towers without gradients, since it expects a trained CLIP.
        clip: Any = self.model.clip
        hidden = clip.vision_model(pixel_values, output_hidden_states=True).hidden_states
        conditional = clip.get_text_features(input_ids).pooler_output
        logits = self.model.decoder([hidden[i + 1] for i in EXTRACT_LAYERS], conditional).logits
        return logits.float(), hidden[-1][:, 1:]

    def patches(self, pixel_values: Tensor) -> Tensor:
        """Return the last layer's patch tokens (b, 64, 128)."""
        clip: Any = self.model.clip
        return clip.vision_model(pixel_values, output_hidden_states=True).hidden_states[-1][:, 1:]


def train_segmenter(
    pool: Pool, tokenizer: CLIPTokenizer, work: Path, recipe: Recipe = RECIPE, trunk_recipe: Recipe = TRUNK_RECIPE
) -> CLIPSegForImageSegmentation:
    """Train on prompts for an object, for the ground, and for things that are absent (empty mask)."""
    torch.manual_seed(recipe.seed)
    model = _Trainable(build_segmenter(tokenizer))
    _train_trunk(model, pool, work, trunk_recipe)
    _initialise_decoder(model.model, pool, tokenizer)
    two = np.flatnonzero(pool.masks[:, 1].any(axis=1))

    def step_loss(rng: np.random.Generator) -> Tensor:
        anywhere = rng.integers(0, len(pool), recipe.batch_size)
        chosen = np.where(
            rng.random(recipe.batch_size) < _TWO_OBJECT_SHARE, rng.choice(two, recipe.batch_size), anywhere
        )
        texts, masks = zip(*(draw_prompt(pool, int(index), rng) for index in chosen), strict=True)
        tokens = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        logits, patches = model(normalised(pool.images[chosen]), tokens)
        named = model.heads.loss(patches, patch_targets(pool, chosen))
        return _mask_loss(logits, torch.from_numpy(np.stack(masks)).float()) + 0.3 * named

    train(model, step_loss, recipe, name="segmenter", checkpoint=work / "segmenter.safetensors")
    return model.model


def _train_trunk(model: _Trainable, pool: Pool, work: Path, recipe: Recipe) -> None:
    def step_loss(rng: np.random.Generator) -> Tensor:
        chosen = rng.integers(0, len(pool), recipe.batch_size)
        return model.heads.loss(model.patches(normalised(pool.images[chosen])), patch_targets(pool, chosen))

    trunk = nn.ModuleList([model.model.clip.vision_model, model.heads])
    train(trunk, step_loss, recipe, name="segmenter trunk", checkpoint=work / "segmenter_trunk.safetensors")


@torch.no_grad()
def _initialise_decoder(model: CLIPSegForImageSegmentation, pool: Pool, tokenizer: CLIPTokenizer) -> None:
    """Scale the decoder's inputs to what the towers give, so that the text reaches the mask from the first step.

    transformers' initial values (0.02) let the prompt's part of the signal arrive a thousand times fainter than the
    picture's: the decoder then finds objects and never learns to ask which.
    """
    towers: Any = model.clip
    decoder: Any = model.decoder
    hidden = towers.vision_model(normalised(pool.images[:64]), output_hidden_states=True).hidden_states
    tokens = tokenizer(list(NOUNS), padding="max_length", return_tensors="pt").input_ids
    spread = towers.get_text_features(tokens).pooler_output.std(dim=0).mean()
    for module in decoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    # The decoder starts from the deepest layer; what shallower ones add must not drown it.
    for layer, reduce, share in zip(EXTRACT_LAYERS[::-1], decoder.reduces, (1.0, 0.5, 0.5), strict=True):
        reduce.weight.mul_(share / hidden[layer + 1].std())
    for film, bias in ((decoder.film_mul, 1.0), (decoder.film_add, 0.0)):
        film.weight.div_(spread)
        film.bias.fill_(bias)


def draw_prompt(pool: Pool, index: int, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """Draw a prompt for a scene and its true mask, bool (64, 64)."""
    scene = pool.scene(index)
    draw = rng.random()
    if draw < _ABSENT_SHARE:
        return _absent(scene, rng), np.zeros((SIZE_PX, SIZE_PX), bool)
    if draw < _ABSENT_SHARE + _BACKGROUND_SHARE:
        objects = pool.mask(index, 0) | pool.mask(index, 1)
        return f"{scene.background} background", ~objects
    position = int(rng.integers(len(scene.objects)))
    thing = scene.objects[position]
    text = (thing.noun, thing.noun, thing.phrase, f"a {thing.noun}")[int(rng.integers(4))]
    return text, pool.mask(index, position)


def _absent(scene: Scene, rng: np.random.Generator) -> str:
    if rng.random() < 0.15:
        return f"{rng.choice([name for name in BACKGROUNDS if name != scene.background])} background"
    present = {thing.noun for thing in scene.objects}
    noun = str(rng.choice([noun for noun in NOUNS if noun not in present]))
    # Half of the time with a colour that is there, so that the colour alone is no evidence.
    return f"{scene.objects[0].colour} {noun}" if rng.random() < 0.4 else noun


def _mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    probability = logits.sigmoid()
    overlap = (probability * masks).sum(dim=(1, 2))
    dice = 1 - (2 * overlap + 1) / (probability.sum(dim=(1, 2)) + masks.sum(dim=(1, 2)) + 1)
    return functional.binary_cross_entropy_with_logits(logits, masks) + 0.5 * dice.mean()


def save_segmenter(model: CLIPSegForImageSegmentation, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write model and processor as an ordinary ``from_pretrained`` folder, weights in fp16."""
    size = {"height": SIZE_PX, "width": SIZE_PX}
    mean, std = list(open_clip.OPENAI_DATASET_MEAN), list(open_clip.OPENAI_DATASET_STD)
    image_processor = ViTImageProcessor(size=size, image_mean=mean, image_std=std)
    CLIPSegProcessor(image_processor=image_processor, tokenizer=tokenizer).save_pretrained(folder)
    model.half().save_pretrained(folder)
