"""SDEdit with guidance and the paper's Eq. 13 written out a second time, in float64, with nothing of ours imported.

DDIM in the form "predicted source, direction to it" and the noise schedule from its definition, element by element.
"""

from collections.abc import Callable

import numpy as np

Array = np.ndarray
Predict = Callable[[Array, int], tuple[Array, Array]]
"""Latents and a timestep -> the unconditional and the conditional noise prediction."""


def alphas_cumprod(num_timesteps: int = 1000, start: float = 0.00085, end: float = 0.012) -> list[float]:
    """The products of 1 - beta, where the square roots of beta grow linearly."""
    products, product = [], 1.0
    for index in range(num_timesteps):
        root = start**0.5 + (end**0.5 - start**0.5) * index / (num_timesteps - 1)
        product *= 1 - root**2
        products.append(product)
    return products


def edited_latents(
    predict: Predict,
    source: Array,
    noise: Array,
    *,
    mask: Array | None,
    strength: float,
    guidance_scale: float,
    num_inference_steps: int,
) -> Array:
    """Latents (b, c, h, w) edited by SDEdit, blended with the noised source outside the mask after each step."""
    table = alphas_cumprod()
    stride = 1000 // num_inference_steps
    timesteps = [1 + stride * index for index in range(num_inference_steps)][::-1]
    count = round(num_inference_steps * strength)
    if count == 0:
        return source
    timesteps = timesteps[-count:]
    first = table[timesteps[0]]
    latents = np.sqrt(first) * source + np.sqrt(1 - first) * noise
    for position, timestep in enumerate(timesteps):
        here = table[timestep]
        last = position + 1 == count
        there = table[0] if last else table[timesteps[position + 1]]
        unconditional, conditional = predict(latents, timestep)
        guided = unconditional + guidance_scale * (conditional - unconditional)
        original = (latents - np.sqrt(1 - here) * guided) / np.sqrt(here)
        latents = np.sqrt(there) * original + np.sqrt(1 - there) * guided
        if mask is not None:
            kept = source if last else np.sqrt(there) * source + np.sqrt(1 - there) * noise
            latents = (1 - mask) * kept + mask * latents
    return latents
