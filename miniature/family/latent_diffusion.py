"""The small latent diffusion models: text to image, and InstructPix2Pix with eight input channels."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from rich.progress import track
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from miniature.family.loop import Recipe, train
from miniature.family.pool import Pool
from miniature.family.tokenizers import CONTEXT_LENGTH
from miniature.family.vae import pixels
from miniature.pairs import true_pair
from miniature.world import Scene

TEXT_WIDTH = 128
LDM_RECIPE = Recipe(
    num_steps=5000, batch_size=64, learning_rate=1e-3, warmup_steps=150, decay_share=0.6, ema_decay=0.999
)
INSTRUCT_RECIPE = Recipe(
    num_steps=1600, batch_size=64, learning_rate=5e-4, warmup_steps=100, decay_share=0.6, ema_decay=0.998, seed=1
)
PROMPT_DROPOUT = 0.1
MIN_SNR_GAMMA = 5.0
"""Noise loss weight min(SNR, gamma) / SNR (Hang et al. 2023, Eq. 5): less effort goes into the last, faint noise."""

# How often each wording of ``Scene.captions`` is shown. Half of the texts are incomplete on purpose: a model that has
# seen every fact in every prompt leaves editing nothing to gain.
_WORDING_WEIGHTS = (0.4, 0.1, 0.15, 0.1, 0.15, 0.1)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return an untrained CLIP text model (128 wide, 2 layers) for the family's tokenizer."""
    markers: dict[str, Any] = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT_LENGTH,
        projection_dim=TEXT_WIDTH,
        **markers,
    )
    config._attn_implementation = "eager"  # the fused kernel's backward is slow on a CPU
    return CLIPTextModel(config)


def build_unet(*, in_channels: int = 4) -> UNet2DConditionModel:
    """Return an untrained UNet of 5.6 M parameters for 16 x 16 latents (attention at 8 x 8 and 4 x 4)."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(64, 96, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """Return Stable Diffusion v1's schedule (diffusers' own defaults for DDIM differ from it)."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


class _NoiseModel(nn.Module):
    """UNet and text encoder as one module, trained together."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.unet = unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.unet.set_attn_processor(AttnProcessor())  # faster than the fused one when trained on a CPU
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.alphas_cumprod = build_scheduler().alphas_cumprod

    def loss(
        self, latents: Tensor, texts: list[str], rng: np.random.Generator, *, condition: Tensor | None = None
    ) -> Tensor:
        """Return the min-SNR weighted noise loss of a batch of scaled latents (b, 4, 16, 16)."""
        tokens = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        prompt_embeds = self.text_encoder(tokens.input_ids).last_hidden_state
        timesteps = torch.from_numpy(rng.integers(0, len(self.alphas_cumprod), len(latents)))
        noise = torch.from_numpy(rng.standard_normal(latents.shape, np.float32))
        alpha = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        model_input = noisy if condition is None else torch.cat([noisy, condition], dim=1)
        predicted = self.unet(
            model_input.contiguous(memory_format=torch.channels_last), timesteps, prompt_embeds
        ).sample
        snr = (alpha / (1 - alpha)).view(-1)
        weight = snr.clamp(max=MIN_SNR_GAMMA) / snr
        return (weight * (predicted.float() - noise).square().mean(dim=(1, 2, 3))).mean()


@torch.no_grad()
def load_latents(vae: AutoencoderKL, pool: Pool, path: Path) -> np.ndarray:
    """Return the pool's scaled latents, float16 (scenes, 4, 16, 16), encoding them into ``path`` when not there yet."""
    if not path.exists():
        latents = np.empty((len(pool), 4, 16, 16), np.float16)
        for start in track(range(0, len(pool), 250), description="encoding the training scenes"):
            latents[start : start + 250] = encode(vae, pool.images[start : start + 250]).numpy()
        partial = path.with_suffix(f".{os.getpid()}.partial.npy")
        np.save(partial, latents)
        partial.replace(path)
    return np.load(path, mmap_mode="r")


@torch.no_grad()
def encode(vae: AutoencoderKL, images: np.ndarray) -> Tensor:
    """Return the scaled posterior means of uint8 images (b, 64, 64, 3)."""
    x = pixels(images).contiguous(memory_format=torch.channels_last)
    encoded: Any = vae.encode(x)
    return encoded.latent_dist.mean * scaling_factor(vae)


def scaling_factor(vae: AutoencoderKL) -> float:
    """Return the factor that gives the VAE's latents a standard deviation of one."""
    config: Any = vae.config
    return float(config.scaling_factor)


def train_ldm(
    pool: Pool, vae: AutoencoderKL, tokenizer: CLIPTokenizer, work: Path, recipe: Recipe = LDM_RECIPE
) -> StableDiffusionPipeline:
    """Train UNet and text encoder on the pool's latents and captions and return the pipeline."""
    torch.manual_seed(recipe.seed)
    latents = load_latents(vae, pool, work / "latents.npy")
    model = _NoiseModel(build_unet(), build_text_encoder(tokenizer), tokenizer)

    def step_loss(rng: np.random.Generator) -> Tensor:
        chosen = rng.integers(0, len(pool), recipe.batch_size)
        texts = [_prompt(pool.scene(int(index)), rng) for index in chosen]
        return model.loss(torch.from_numpy(latents[chosen].astype(np.float32)), texts, rng)

    train(model, step_loss, recipe, name="ldm", checkpoint=work / "ldm.safetensors")
    return ldm_pipeline(vae, model.text_encoder, tokenizer, model.unet)


def ldm_pipeline(
    vae: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, unet: UNet2DConditionModel
) -> StableDiffusionPipeline:
    """Bundle the parts as an ordinary Stable Diffusion pipeline without a safety checker."""
    return _bundle(StableDiffusionPipeline, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet)


def _bundle(pipeline_class: Any, **parts: Any) -> Any:
    return pipeline_class(
        **parts,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _prompt(scene: Scene, rng: np.random.Generator) -> str:
    if rng.random() < PROMPT_DROPOUT:
        return ""
    return scene.captions()[int(rng.choice(len(_WORDING_WEIGHTS), p=_WORDING_WEIGHTS))]


def train_instruct_pix2pix(
    pool: Pool, base: StableDiffusionPipeline, work: Path, recipe: Recipe = INSTRUCT_RECIPE
) -> StableDiffusionInstructPix2PixPipeline:
    """Train InstructPix2Pix on true pairs, starting from the text-to-image model as its authors did.

    Four channels are added to the first convolution with zero weights; instruction and source are dropped, each alone
    and both together, in 5 % of the cases (Brooks et al. 2023, Sec. 3.2.1).
    """
    torch.manual_seed(recipe.seed)
    unet = build_unet(in_channels=8)
    state = base.unet.state_dict()
    widened = torch.zeros_like(unet.conv_in.weight)
    widened[:, :4] = state["conv_in.weight"]
    unet.load_state_dict({**state, "conv_in.weight": widened})
    model = _NoiseModel(unet, base.text_encoder, base.tokenizer)

    def step_loss(rng: np.random.Generator) -> Tensor:
        pairs = [
            true_pair(pool.scene(int(index)), rng, only_seen=True)
            for index in rng.integers(0, len(pool), recipe.batch_size)
        ]
        images = np.stack([np.asarray(scene.render()) for pair in pairs for scene in (pair.source, pair.target)])
        latents = encode(base.vae, images)
        # The pipeline conditions on the unscaled latents of the source.
        sources, targets = latents[0::2] / scaling_factor(base.vae), latents[1::2]
        draw = rng.random(recipe.batch_size)
        texts = ["" if d < 0.1 else pair.instruction for d, pair in zip(draw, pairs, strict=True)]
        keep = torch.from_numpy((draw < 0.05) | (draw >= 0.15)).float().view(-1, 1, 1, 1)
        return model.loss(targets, texts, rng, condition=sources * keep)

    train(model, step_loss, recipe, name="instruct_pix2pix", checkpoint=work / "instruct_pix2pix.safetensors")
    return _bundle(
        StableDiffusionInstructPix2PixPipeline,
        vae=base.vae,
        text_encoder=model.text_encoder,
        tokenizer=base.tokenizer,
        unet=model.unet,
    )
