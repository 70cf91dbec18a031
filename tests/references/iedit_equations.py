"""The paper's equations in float64, one plain loop each, written from the paper and not from our code.

Arrays are numpy float64 of one sample, (channels, height, width); masks are (height, width).
"""

import math

import numpy as np


def alphas_cumprod(num_steps: int = 1000, first: float = 0.00085, last: float = 0.012) -> list[float]:
    """Stable Diffusion's scaled-linear schedule: the roots of the betas are equally spaced."""
    products, product = [], 1.0
    for step in range(num_steps):
        root = math.sqrt(first) + (math.sqrt(last) - math.sqrt(first)) * step / (num_steps - 1)
        product *= 1.0 - root * root
        products.append(product)
    return products


def noised(z: np.ndarray, eps: np.ndarray, alpha: float) -> np.ndarray:
    """Eq. 2."""
    out = np.empty(z.shape)
    for place in np.ndindex(*z.shape):
        out[place] = math.sqrt(alpha) * float(z[place]) + math.sqrt(1 - alpha) * float(eps[place])
    return out


def target_noise(z_t: np.ndarray, z_2: np.ndarray, alpha: float) -> np.ndarray:
    """Eq. 3 as it is printed: a difference, then a division."""
    out = np.empty(z_t.shape)
    for place in np.ndindex(*z_t.shape):
        out[place] = (float(z_t[place]) - math.sqrt(alpha) * float(z_2[place])) / math.sqrt(1 - alpha)
    return out


def original(z_t: np.ndarray, eps: np.ndarray, alpha: float) -> np.ndarray:
    """Eq. 7."""
    out = np.empty(z_t.shape)
    for place in np.ndindex(*z_t.shape):
        out[place] = (float(z_t[place]) - math.sqrt(1 - alpha) * float(eps[place])) / math.sqrt(alpha)
    return out


def mean_square(a: np.ndarray, b: np.ndarray) -> float:
    """Eq. 1, 4 and 10: the squared norm as a mean over all elements."""
    total = 0.0
    for place in np.ndindex(*a.shape):
        total += (float(a[place]) - float(b[place])) ** 2
    return total / a.size


def clip_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Eq. 5 and 11: one minus the cosine."""
    dot = norm_a = norm_b = 0.0
    for x, y in zip(a, b, strict=True):
        dot, norm_a, norm_b = dot + float(x) * float(y), norm_a + float(x) ** 2, norm_b + float(y) ** 2
    return 1.0 - dot / math.sqrt(norm_a * norm_b)


def masked_terms(
    eps_theta: np.ndarray, eps_1: np.ndarray, eps_2: np.ndarray, mask_1: np.ndarray, mask_2: np.ndarray
) -> tuple[float, float]:
    """Eq. 9 as it is printed: each noise is multiplied by its mask, then the difference is squared."""
    foreground = background = 0.0
    for c, y, x in np.ndindex(*eps_theta.shape):
        inside, outside = float(mask_2[y, x]), 1.0 - float(mask_1[y, x])
        predicted = float(eps_theta[c, y, x])
        foreground += (float(eps_2[c, y, x]) * inside - predicted * inside) ** 2
        background += (float(eps_1[c, y, x]) * outside - predicted * outside) ** 2
    return foreground / eps_theta.size, background / eps_theta.size


def masked_terms_by_region(
    eps_theta: np.ndarray,
    eps_1: np.ndarray,
    eps_2: np.ndarray,
    masks: tuple[np.ndarray, np.ndarray],
    policy: str,
    *,
    by_area: bool,
) -> tuple[float, float]:
    """The mask policies for binary masks, told region by region."""
    asks_for = {  # (in M_1, in M_2) -> which noises are asked for
        "paper": {(0, 0): "1", (0, 1): "12", (1, 0): "", (1, 1): "2"},
        "fg_priority": {(0, 0): "1", (0, 1): "2", (1, 0): "", (1, 1): "2"},
        "union": {(0, 0): "1", (0, 1): "2", (1, 0): "2", (1, 1): "2"},
    }[policy]
    sums, counts = {"1": 0.0, "2": 0.0}, {"1": 0, "2": 0}
    for c, y, x in np.ndindex(*eps_theta.shape):
        for which in asks_for[int(masks[0][y, x]), int(masks[1][y, x])]:
            wanted = (eps_1 if which == "1" else eps_2)[c, y, x]
            sums[which] += (float(wanted) - float(eps_theta[c, y, x])) ** 2
            counts[which] += 1
    divisor = {which: (max(counts[which], 1) if by_area else eps_theta.size) for which in "12"}
    return sums["2"] / divisor["2"], sums["1"] / divisor["1"]


def combined(
    *, t: int, num_steps: int, noise: float, global_clip: float, loc: float, perc: float, lambda_perc: float
) -> float:
    """Eq. 12."""
    return (1 - t / num_steps) * (loc + global_clip) + t / num_steps * noise + lambda_perc * perc


def gram(features: np.ndarray) -> np.ndarray:
    """Johnson et al. 2016, Eq. 3: inner products of the channels over c h w."""
    channels, height, width = features.shape
    out = np.zeros((channels, channels))
    for i in range(channels):
        for j in range(channels):
            for y in range(height):
                for x in range(width):
                    out[i, j] += float(features[i, y, x]) * float(features[j, y, x])
    return out / features.size
