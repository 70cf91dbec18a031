"""Training samples per second, with and without caches, against diffusers' step: ``python -m benchmarks.bench_train``.

The plain way is the step of diffusers' text-to-image training script on the same weights: encode the image and the
caption, noise, predict, compare, clip, AdamW over the whole UNet. It gets its images decoded and tokenised from
memory; ours are read from the tars where they are not cached. ``--sd14`` takes Stable Diffusion v1.4's architecture,
CLIP ViT-B/32 and VGG16 with random weights at 384 x 384, which wants a GPU. Memory is the peak of torch's allocator:
on a GPU with networks and moments, on a CPU what two steps hold beyond them.
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from benchmarks.memory import allocated_peak_mib
from benchmarks.random_sd14 import WEIGHTS, write_random_sd14
from benchmarks.report import CONSOLE, print_provenance, print_rows
from benchmarks.true_pair_version import build_version, true_pairs
from iedit_model.models.devices import DeviceConfig, resolve_device
from iedit_model.models.source import ModelSource
from iedit_model.training.config import LayerPolicy, LossConfig, TrainConfig
from storage import ShardStore, VersionInfo
from tasks.train.learner import build_accelerator
from tasks.train.networks import load_networks
from tasks.train.preparation import prepare_run
from tasks.train.run_config import CacheConfig, ComputeConfig, LoopConfig, TrainRunConfig
from tasks.train.run_folder import RunFolder
from tasks.train.train_log import NullProgress
from tasks.train.train_rows import read_pair, read_rows
from tasks.train.training_run import TrainingRun

MASK = LossConfig(use_global=False, use_loc=False, use_perc=False)
FULL = LossConfig(lambda_perc=0.001)
WARM_UP = 2
_CLIP_NORM = 1.0

Step = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One way to train."""

    name: str
    samples_per_s: float
    """By the clock, from the median step."""
    samples_per_cpu_s: float
    """By the CPU time of this process."""
    peak_mib: float


def main() -> None:
    """Measure and print one table."""
    options = _options()
    print_provenance(f"training, {'SD v1.4 at 384 px' if options.sd14 else 'the miniature at 64 px'}")
    device = resolve_device(DeviceConfig(device=options.device, dtype=options.precision))
    kind = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    CONSOLE.print(f"{device.name}, {kind}, batch {options.batch}, {options.steps} steps after {WARM_UP}")
    with tempfile.TemporaryDirectory(prefix="iedit-bench-") as folder:
        bench = _Bench(Path(folder), options, device.dtype, device.type)
        _print(bench.measured())
        CONSOLE.print(f"the caches, filled once: {bench.cached_per_s:.1f} samples/s (latents, texts, masks, features)")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sd14", action="store_true", help="SD v1.4's sizes with random weights, 384 px")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4, help="steps of each way that are timed; an even number")
    parser.add_argument("--pairs", type=int, default=24, help="pairs of the dataset")
    parser.add_argument("--compile", action="store_true", help="compile the UNet of ours and of the plain way")
    return parser.parse_args()


class _Bench:
    def __init__(self, folder: Path, options: argparse.Namespace, precision: Any, device: Any) -> None:
        self._folder, self._options, self._precision = folder, options, precision
        self._device: Any = device
        self._models = write_random_sd14(folder / "models") if options.sd14 else _mini_models()
        self._store = ShardStore.at(folder / "store")
        pairs = true_pairs(options.pairs)
        self._info: VersionInfo = build_version(self._store, pairs, size_px=384 if options.sd14 else 64)
        self.cached_per_s = 0.0

    def measured(self) -> Iterator[Measured]:
        """Measure one way after another, each with networks of its own that are gone when the next begins."""
        yield self._measure("diffusers' text-to-image step, whole UNet", self._plain())
        ways: tuple[tuple[str, LossConfig, LayerPolicy, bool], ...] = (
            ("L_mask, whole UNet, cached", MASK, "all", True),
            ("L_mask, whole UNet, encoded in each step", MASK, "all", False),
            ("L_mask, input and middle in turn, cached", MASK, "alternate", True),
            ("Eq. 12, input and middle in turn, cached", FULL, "alternate", True),
            ("Eq. 12, input and middle in turn, encoded in each step", FULL, "alternate", False),
        )
        for name, loss, layers, cached in ways:
            train = TrainConfig(
                loss=loss,
                layers=layers,
                batch_size=self._options.batch,
                precision=self._precision,
                max_grad_norm=_CLIP_NORM,
            )
            yield self._measure(name, self._ours(train, cached=cached))

    def _measure(self, name: str, way: Any) -> Measured:
        on_gpu = self._device == "cuda"
        with way as step:
            for _ in range(WARM_UP):
                step()
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            wall, cpu = [], []
            for _ in range(self._options.steps):
                began = time.monotonic(), time.process_time()
                step()
                if on_gpu:
                    torch.cuda.synchronize()
                wall.append(time.monotonic() - began[0])
                cpu.append(time.process_time() - began[1])
            # Two steps, since the layers that learn take turns.
            peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else allocated_peak_mib(lambda: (step(), step()))
        gc.collect()
        if on_gpu:
            torch.cuda.empty_cache()
        batch = self._options.batch
        # Two turns cost differently: the mean over both, of medians.
        seconds, cpu_seconds = (statistics.mean(_turns(times)) for times in (wall, cpu))
        return Measured(name=name, samples_per_s=batch / seconds, samples_per_cpu_s=batch / cpu_seconds, peak_mib=peak)

    @contextmanager
    def _ours(self, train: TrainConfig, *, cached: bool) -> Iterator[Step]:
        config = self._run_config(train, cached=cached)
        folder = RunFolder(Path(tempfile.mkdtemp(dir=self._folder)))
        with ExitStack() as stack:
            prepared = prepare_run(
                self._info,
                config,
                self._store,
                folder,
                accelerator=build_accelerator(train, config.compute),
                stack=stack,
                progress=NullProgress(),
            )
            if prepared.cache is not None and prepared.cache.num_encoded:
                self.cached_per_s = prepared.cache.num_encoded / prepared.cache.seconds
            run = TrainingRun(prepared.parts, first_step=0, seconds=0.0, lambda_perc=train.loss.lambda_perc)
            steps = run.steps(10**6)
            yield lambda: next(steps)

    @contextmanager
    def _plain(self) -> Iterator[Step]:
        config = self._run_config(TrainConfig(loss=MASK, precision=self._precision), cached=False)
        accelerator = build_accelerator(config.train, config.compute)
        networks: Any = load_networks(config, accelerator.device)
        networks.model.unet.requires_grad_(requires_grad=True).train()
        if self._options.compile:
            networks.model.unet.compile()
        optimiser: Any = accelerator.prepare_optimizer(torch.optim.AdamW(networks.model.unet.parameters(), lr=1e-4))
        pixels, tokens = self._in_memory(networks)
        place_of = iter(range(10**9))

        def step() -> None:
            chosen = [next(place_of) % len(pixels) for _ in range(self._options.batch)]
            _plain_step(networks, accelerator, optimiser, pixels[chosen], tokens[chosen])

        yield step

    def _in_memory(self, networks: Any) -> tuple[torch.Tensor, torch.Tensor]:
        from storage import VersionStore
        from tasks.train.run_config import RowsConfig

        rows = read_rows(VersionStore(self._store.files), self._info, RowsConfig())
        pairs = [read_pair(self._store.files, row, "edit") for row in rows.of_ids(rows.chosen)]
        pixels = torch.stack([torch.from_numpy(pair.source_pixels).float() / 127.5 - 1 for pair in pairs])
        tokenizer = networks.model.tokenizer
        tokens = tokenizer(
            [pair.source_prompt for pair in pairs],
            padding="max_length",
            truncation=True,
            max_length=tokenizer.model_max_length,
            return_tensors="pt",
        )
        return pixels, tokens.input_ids

    def _run_config(self, train: TrainConfig, *, cached: bool) -> TrainRunConfig:
        sources: dict[str, Any] = {name: ModelSource(str(path)) for name, path in self._models.items()}
        judges = self._precision if self._device == "cuda" and self._precision == "bf16" else "fp32"
        config = TrainRunConfig(
            **sources,
            train=train,
            cache=CacheConfig(enabled=cached, batch_size=4),
            loop=LoopConfig(sinks=(), batches_ahead=0),
            compute=ComputeConfig(device=self._device, loss_precision=judges),
        )
        return replace(config, compute=replace(config.compute, compile_unet=self._options.compile))


def _plain_step(networks: Any, accelerator: Any, optimiser: Any, pixels: torch.Tensor, tokens: torch.Tensor) -> None:
    """What ``train_text_to_image.py`` of diffusers does with one batch."""
    from diffusers import DDPMScheduler

    device = accelerator.device
    scheduler: Any = DDPMScheduler.from_config(networks.model.scheduler_config)
    with accelerator.autocast():
        vae = networks.model.vae
        latents = vae.encode(pixels.to(device)).latent_dist.sample() * vae.config.scaling_factor
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(latents),), device=device)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        states = networks.model.text_encoder(tokens.to(device), return_dict=False)[0]
        predicted = networks.model.unet(noisy, timesteps, states, return_dict=False)[0]
        loss = functional.mse_loss(predicted.float(), noise.float(), reduction="mean")
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(networks.model.unet.parameters(), _CLIP_NORM)
    optimiser.step()
    optimiser.zero_grad()


def _turns(times: list[float]) -> tuple[float, ...]:
    """Return the median time of the even and of the odd steps."""
    return tuple(statistics.median(part) for part in (times[::2], times[1::2]) if part)


def _mini_models() -> dict[str, Path]:
    return {"model": WEIGHTS / "ldm", "clip": WEIGHTS / "clip", "perceptual": WEIGHTS / "perceptual"}


def _print(measured: Iterator[Measured]) -> None:
    rows, plain = [], None
    for way in measured:
        plain = plain or way
        rows.append(
            (
                way.name,
                f"{way.samples_per_s:.2f}",
                f"{way.samples_per_s / plain.samples_per_s:.2f}",
                f"{way.samples_per_cpu_s:.2f}",
                f"{way.samples_per_cpu_s / plain.samples_per_cpu_s:.2f}",
                f"{way.peak_mib:,.0f} MiB",
            )
        )
    print_rows(("way", "samples/s", "to plain", "per CPU s", "to plain", "peak memory"), rows)


if __name__ == "__main__":
    main()
