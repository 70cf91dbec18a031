"""The captioner of the family: BLIP, trained from scratch on the plain caption of each scene."""

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor, nn
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

from miniature.family.clip import normalised
from miniature.family.loop import Recipe, train
from miniature.family.pool import Pool
from miniature.family.targets import PATCH_PX, PatchHeads, patch_targets
from miniature.family.tokenizers import CONTEXT_LENGTH
from miniature.family.vit import initialise_vit
from miniature.world import SIZE_PX

RECIPE = Recipe(
    num_steps=5500, batch_size=48, learning_rate=8e-4, weight_decay=0.02, betas=(0.9, 0.98), ema_decay=0.998, seed=5
)
WIDTH = 128


def build_captioner(tokenizer: BertTokenizer) -> BlipForConditionalGeneration:
    """Return an untrained BLIP: 64 px, patch 8, vision 128 wide x 3 layers, text 128 wide x 2 layers."""
    config = BlipConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "encoder_hidden_size": WIDTH,
            "intermediate_size": 512,
            "projection_dim": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT_LENGTH,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.sep_token_id,
            "sep_token_id": tokenizer.sep_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "image_size": SIZE_PX,
            "patch_size": PATCH_PX,
            "hidden_size": WIDTH,
            "intermediate_size": 512,
            "projection_dim": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
        },
        projection_dim=128,
        image_text_hidden_size=128,
    )
    config._attn_implementation = "eager"
    model = BlipForConditionalGeneration(config)
    vision: Any = model.vision_model
    initialise_vit(vision, vision.embeddings.position_embedding)
    return model


class _Trainable(nn.Module):
    def __init__(self, model: BlipForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        self.heads = PatchHeads(WIDTH)


def train_captioner(
    pool: Pool, tokenizer: BertTokenizer, work: Path, recipe: Recipe = RECIPE
) -> BlipForConditionalGeneration:
    """Train with teacher forcing on ``Scene.caption``; generation starts from BLIP's [DEC] marker."""
    torch.manual_seed(recipe.seed)
    model = _Trainable(build_captioner(tokenizer))

    def step_loss(rng: np.random.Generator) -> Tensor:
        chosen = rng.integers(0, len(pool), recipe.batch_size)
        texts = [pool.scene(int(index)).caption for index in chosen]
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        input_ids = tokens.input_ids
        input_ids[:, 0] = tokenizer.bos_token_id
        labels = input_ids.masked_fill(tokens.attention_mask == 0, -100)
        output = model.model(
            pixel_values=normalised(pool.images[chosen]),
            input_ids=input_ids,
            attention_mask=tokens.attention_mask,
            labels=labels,
        )
        return output.loss + 0.3 * model.heads.loss(output.image_embeds[:, 1:], patch_targets(pool, chosen))

    train(model, step_loss, recipe, name="captioner", checkpoint=work / "captioner.safetensors")
    return model.model


def save_captioner(model: BlipForConditionalGeneration, tokenizer: BertTokenizer, folder: Path) -> None:
    """Write model and processor as an ordinary ``from_pretrained`` folder, weights in fp16."""
    image_processor = BlipImageProcessor(
        size={"height": SIZE_PX, "width": SIZE_PX},
        image_mean=list(open_clip.OPENAI_DATASET_MEAN),
        image_std=list(open_clip.OPENAI_DATASET_STD),
    )
    BlipProcessor(image_processor=image_processor, tokenizer=tokenizer).save_pretrained(folder)
    model.half().save_pretrained(folder)
