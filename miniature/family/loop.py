"""The one training loop of the family: seeded, resumable, with progress.

The batch of step ``s`` is a pure function of (seed, s), so a resumed run needs no random state: weights, their moving
average and the optimiser's two moments are enough, and they fit into safetensors.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Step = Callable[[np.random.Generator], Tensor]
"""Draws a batch with the generator and returns the scalar loss."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one member is trained; together with the seed and the code this decides its weights."""

    num_steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.01
    warmup_steps: int = 100
    decay_share: float = 1.0
    """Last share of the steps in which the rate falls to zero along a cosine."""
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0
    """Decay of the moving average of the weights; 0 keeps none."""
    betas: tuple[float, float] = (0.9, 0.99)
    seed: int = 0
    bf16: bool = True

    def rate_at(self, step: int) -> float:
        """Return the learning rate of ``step``: linear warm-up, constant, cosine to zero."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        start = self.num_steps * (1 - self.decay_share)
        progress = min(1.0, max(0.0, (step - start) / max(1.0, self.num_steps - start)))
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * progress))


def train(
    model: nn.Module, step_loss: Step, recipe: Recipe, *, name: str, checkpoint: Path, save_every_s: float = 120
) -> float:
    """Train ``model`` in place and leave it with its averaged weights, when the recipe asks for them.

    A checkpoint is written every ``save_every_s`` seconds and at the end; the same call continues from it, and one
    whose step equals ``recipe.num_steps`` returns at once.

    Args:
        model: the module whose trainable parameters are updated.
        step_loss: draws one batch and returns its loss; called under bf16 autocast when the recipe says so.
        recipe: steps, rates and seed.
        name: what the progress bar calls it.
        checkpoint: a safetensors file.
        save_every_s: seconds between two checkpoints.

    Returns:
        Seconds spent in training steps, earlier calls on the same checkpoint included.
    """
    parameters = {key: value for key, value in model.named_parameters() if value.requires_grad}
    optimiser = torch.optim.AdamW(parameters.values(), lr=0.0, betas=recipe.betas, weight_decay=recipe.weight_decay)
    average = {key: value.detach().clone() for key, value in parameters.items()} if recipe.ema_decay else {}
    start, spent_s = _restore(checkpoint, parameters, average, optimiser)
    losses, saved_at, began = [], time.monotonic(), time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns) as bar:
        task = bar.add_task(name, total=recipe.num_steps, completed=start, note="")
        for step in range(start, recipe.num_steps):
            rate = recipe.rate_at(step)
            for group in optimiser.param_groups:
                group["lr"] = rate
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
                loss = step_loss(np.random.default_rng((recipe.seed, step)))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters.values(), recipe.max_grad_norm)
            optimiser.step()
            if average:
                _update_average(average, parameters, min(recipe.ema_decay, (1 + step) / (10 + step)))
            losses.append(loss.item())
            if step % 50 == 49 or step + 1 == recipe.num_steps:
                speed = (step + 1 - start) * recipe.batch_size / (time.monotonic() - began)
                note = f"loss {np.mean(losses[-50:]):.4f}  {speed:.0f}/s"
                bar.update(task, completed=step + 1, note=note)
                if step % 500 == 499:
                    bar.console.print(f"{name} step {step + 1} {note}", highlight=False)
            if time.monotonic() - saved_at > save_every_s or step + 1 == recipe.num_steps:
                elapsed_s = spent_s + time.monotonic() - began
                _save(checkpoint, (step + 1, elapsed_s), parameters, average, optimiser)
                saved_at = time.monotonic()
    with torch.no_grad():
        for key, value in average.items():
            parameters[key].copy_(value)
    return spent_s + time.monotonic() - began


@torch.no_grad()
def _update_average(average: dict[str, Tensor], parameters: dict[str, nn.Parameter], decay: float) -> None:
    torch._foreach_lerp_(list(average.values()), list(parameters.values()), 1 - decay)


def _save(
    path: Path,
    progress: tuple[int, float],
    parameters: dict[str, nn.Parameter],
    average: dict[str, Tensor],
    optimiser: torch.optim.AdamW,
) -> None:
    tensors = {f"model.{key}": value.detach().contiguous() for key, value in parameters.items()}
    tensors |= {f"average.{key}": value.contiguous() for key, value in average.items()}
    for key, value in parameters.items():
        if state := optimiser.state.get(value):
            tensors |= {f"{moment}.{key}": state[moment].contiguous() for moment in ("exp_avg", "exp_avg_sq")}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file(tensors, partial, metadata={"step": str(progress[0]), "seconds": str(progress[1])})
    partial.replace(path)


def _restore(
    path: Path, parameters: dict[str, nn.Parameter], average: dict[str, Tensor], optimiser: torch.optim.AdamW
) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    with safe_open(path, "pt") as file:
        step, seconds = int(file.metadata()["step"]), float(file.metadata().get("seconds", 0))
    tensors = load_file(path)
    with torch.no_grad():
        for key, value in parameters.items():
            value.copy_(tensors[f"model.{key}"])
            if key in average:
                average[key].copy_(tensors[f"average.{key}"])
            if f"exp_avg.{key}" in tensors:
                moments = {
                    moment: torch.empty_like(value).copy_(tensors[f"{moment}.{key}"])
                    for moment in ("exp_avg", "exp_avg_sq")
                }
                optimiser.state[value] = {"step": torch.tensor(float(step)), **moments}
    return step, seconds
