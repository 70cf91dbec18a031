"""Planted corpora for the division into splits: one like the miniature, one with heavy tails."""

import hashlib

import numpy as np

from tasks.corpus import Ids
from tasks.pack.splits import components


def ids_of(num: int, seed: int = 0) -> Ids:
    """Return made-up sample ids, sorted."""
    names = [hashlib.sha256(f"{seed} {number}".encode()).hexdigest()[:20] for number in range(num)]
    return np.sort(np.array(names, dtype="S20"))


def miniature_like(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return units and claims as the miniature gives them: 4,480 captions, duplicates by chance, targets that fit."""
    rng = np.random.default_rng(seed)
    scenes = np.stack([rng.integers(number, size=num * 3 // 2) for number in (56, 10, 8, 5)], axis=1)
    captions = scenes[:, :3] @ (80, 8, 1)
    sources = rng.permutation(len(scenes))[:num]
    edited, by_noun = scenes[sources, :3].copy(), rng.random(num) < 0.5
    edited[by_noun, 0] = (edited[by_noun, 0] // 5 * 5 + rng.integers(5, size=by_noun.sum())) % 56
    edited[~by_noun, 1] = rng.integers(10, size=(~by_noun).sum())
    prompts = edited @ (80, 8, 1)
    order = np.argsort(captions, kind="stable")
    targets = order[np.minimum(np.searchsorted(captions[order], prompts), len(order) - 1)]
    noun, colour, ground = scenes[sources, :3].T
    units = np.where(by_noun, (colour * 8 + ground) * 12 + noun // 5, 10**6 + noun * 8 + ground)
    images = captions * 5 + scenes[:, 3]
    return units, np.stack([images[sources], images[targets], -1 - captions[sources], -1 - prompts], axis=1)


def heavy_tailed(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return units and claims with heavy tails: popular captions, hubs that many sources have as their target."""
    rng = np.random.default_rng(seed)
    popularity = np.minimum(rng.zipf(1.9, size=4 * num), 300).astype(float)
    targets = rng.choice(4 * num, size=num, p=popularity / popularity.sum())
    popular = rng.random(num) < 0.3
    captions = np.where(popular, rng.zipf(1.3, size=num) % (20 * num), 10**8 + np.arange(num))
    prompts = np.where(rng.random(num) < 0.3, 10**9 + rng.zipf(1.3, size=num) % (20 * num), 2 * 10**9 + np.arange(num))
    claims = [rng.permutation(4 * num)[:num], targets, -1 - captions, -1 - prompts]
    return captions * 3 + rng.integers(3, size=num), np.stack(claims, axis=1)


def groups_of(units: np.ndarray, claims: np.ndarray) -> np.ndarray:
    """Return the component of each sample."""
    num = len(units)
    _, things = np.unique(np.concatenate([claims.ravel(), 10**12 + units]), return_inverse=True)
    rows = np.concatenate([np.repeat(np.arange(num), claims.shape[1]), np.arange(num)])
    return components(num + things.max() + 1, rows, num + things)[:num]
