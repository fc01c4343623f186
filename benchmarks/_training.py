"""What the experiments on training share: photographs decoded once, the trainer's own loop, parts that are kept.

A cell is one small training with its scores. Each is kept as a JSON part in an ignored folder, so that a long
experiment can be run in pieces; a part made with other settings is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _common import REPOSITORY, write_json
from torch import Tensor, nn

from linearsr.autoencoders.pixel import PixelAutoencoder
from linearsr.errors import ConfigError
from linearsr.metrics import Lpips
from linearsr.model.experts import ExpertBank
from linearsr.model.transformer import LinearDiT
from linearsr_train.build import averaged_network, build_state
from linearsr_train.config import TrainConfig
from linearsr_train.context import AUTOCAST
from linearsr_train.data.batches import Batch, CropDataset, batches
from linearsr_train.data.sources import PhotoSet, find_photos
from linearsr_train.distributed import build_accelerator
from linearsr_train.esgf import Esgf
from linearsr_train.evaluate import ValidationSet, build_validation, validate
from linearsr_train.experts import Stage, boundaries_log_snr, plan_stages
from linearsr_train.instruments import attention_health
from linearsr_train.loop import Ending, LossTerms, train
from linearsr_train.runlog import RunLog
from linearsr_train.shards import full_tensors
from linearsr_train.state import TrainState
from linearsr_train.weights import write_tensors

Weights = Mapping[str, Tensor]
PARTS = REPOSITORY / "runs"
"""Ignored by git."""
NORMS = 100
"""Steps before a checkpoint over which the gradient norm is averaged."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all cells share."""

    photos: PhotoSet
    held_back: PhotoSet
    terms: LossTerms
    lpips: Lpips
    accelerator: Any
    workers: int


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training leaves behind."""

    weights: Weights
    """Averaged, of the last step."""
    ending: Ending
    steps: int
    nonfinite: int
    """Steps skipped for a gradient that is not finite."""
    seconds: float


def add_training_options(parser: argparse.ArgumentParser, parts: str, photos: int) -> None:
    """Options of every experiment that trains."""
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of photographs; scores are of its held-back part"
    )
    parser.add_argument("--lpips-weights", type=Path, required=True, metavar="FILE", help="safetensors")
    parser.add_argument("--seeds", default="0,1,2", help="seeds of the trainings (default: 0,1,2)")
    parser.add_argument("--photos", type=int, default=photos, help=f"held-back photographs (default: {photos})")
    parser.add_argument("--parts", type=Path, default=PARTS / parts, help=f"folder of parts (default: runs/{parts})")
    parser.add_argument("--workers", type=int, default=1, help="loader processes (default: 1)")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps (default: cpu)")
    parser.add_argument("--output", type=Path, metavar="FILE")


def open_bench(options: argparse.Namespace, config: TrainConfig) -> Bench:
    """Decode the photographs and load the measure.

    Raises:
        TrainingError: no photographs.
        WeightsError: no LPIPS weights.
    """
    accelerator = build_accelerator(mixed_precision=config.loop.mixed_precision, device=options.device)
    lpips = Lpips.from_file(options.lpips_weights).to(accelerator.device)
    training, held_back = find_photos(options.data, config.data.validation_fraction)
    return Bench(
        photos=PhotoSet(training, config.data.crop, config.data.cache_gib),
        held_back=PhotoSet(held_back, config.loop.validation_crop, config.data.cache_gib),
        terms=LossTerms(PixelAutoencoder(config.autoencoder)),
        lpips=lpips,
        accelerator=accelerator,
        workers=options.workers,
    )


def validation_set(bench: Bench, config: TrainConfig, tasks: Sequence[str]) -> ValidationSet:
    """The held-back photographs of a config, these tasks alone."""
    full = build_validation(bench.held_back, config)
    return ValidationSet({task: full.tasks[task] for task in tasks})


def train_stage(
    bench: Bench,
    config: TrainConfig,
    stage: Stage,
    start: Weights | None,
    *,
    on_validation: Callable[[TrainState], None] = lambda _: None,
    on_step: Callable[[dict[str, float]], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train one network for a whole stage, or until asked to stop; no controller watches it.

    A loss that is not finite ends it too, and `ending` says so.
    """
    state = build_state(config, stage, bench.accelerator, None if start is None else dict(start))
    dataset = CropDataset(bench.photos, config.data, config.loop.seed + 1000 * stage.index)
    data = batches(dataset, config.loop.batch_size, 0, stage.settings.max_steps, bench.workers)

    def on_nonfinite(state: TrainState, _: Batch) -> None:
        state.esgf.update(state.step + 1, math.nan, math.nan, finite=False)

    clock = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        ending = train(
            state, data, bench.terms, Path(folder), RunLog.off(), on_validation=on_validation,
            on_nonfinite=on_nonfinite, on_progress=lambda _, values: on_step(values), should_stop=should_stop,
        )  # fmt: skip
    weights = {name: value.clone() for name, value in full_tensors(state.ema.shadow).items()}
    return Trained(weights, ending, state.step, state.nonfinite, time.monotonic() - clock)


def train_experts(bench: Bench, config: TrainConfig, start: Weights) -> list[Trained]:
    """Every expert of a config from the same weights, expert 0 first; a config without boundaries has one."""
    stages = [stage for stage in plan_stages(config) if stage.kind == "expert"]
    trained = {stage.expert: train_stage(bench, config, stage, start) for stage in stages}
    return [trained[expert] for expert in sorted(trained)]


def make_bank(
    config: TrainConfig, networks: Sequence[Weights], device: torch.device
) -> tuple[ExpertBank, nn.ModuleList]:
    """The networks as users sample with them, and all of them for a look inside."""
    loaded = nn.ModuleList()
    for weights in networks:
        network = LinearDiT(config.model)
        network.load_state_dict(dict(weights))
        loaded.append(network.to(device, memory_format=torch.channels_last).eval())  # type: ignore[call-overload]
    boundaries = boundaries_log_snr(config.experts) if len(networks) > 1 else ()
    return ExpertBank(boundaries, lambda expert: loaded[expert], keep=len(networks)), loaded  # type: ignore[arg-type,return-value]


def score(
    bench: Bench, config: TrainConfig, networks: Sequence[Weights], data: ValidationSet, steps: tuple[int, ...]
) -> dict[str, float]:
    """PSNR-Y and LPIPS by task and number of steps, as `linearsr_train.evaluate.validate` names them."""
    bank, _ = make_bank(config, networks, bench.accelerator.device)
    return validate(bank, bench.terms.autoencoder, data, config, steps=steps, perceptual=bench.lpips, **_where(bench))


def health(bench: Bench, config: TrainConfig, networks: Sequence[Weights], data: ValidationSet) -> dict[str, float]:
    """State of the linear attention over four steps on the first picture of each task."""
    bank, modules = make_bank(config, networks, bench.accelerator.device)
    one = ValidationSet({task: entries[:1] for task, entries in data.tasks.items()})
    found = attention_health(
        modules, lambda: validate(bank, bench.terms.autoencoder, one, config, steps=(4,), **_where(bench))
    )
    names = ("effective_rank", "dead_queries", "min_denominator", "max_activation")
    return {name: found[f"attn/{name}"] for name in names}


def _where(bench: Bench) -> dict[str, Any]:
    accelerator = bench.accelerator
    return {"device": accelerator.device, "autocast_dtype": AUTOCAST.get(accelerator.mixed_precision)}


class Recorder:
    """Measures a pretraining at every evaluation, keeps its averaged weights and says when it is late enough.

    The controller judges what is measured, but ends nothing.

    Args:
        bench: of the experiment.
        config: with the number and size of the pictures that are measured.
        data: those pictures.
        folder: for the weights, one file each evaluation.
        late: how long to go on, in steps of the knee.
        beyond: how long to go on at least, in steps after the knee.
    """

    def __init__(
        self, bench: Bench, config: TrainConfig, data: ValidationSet, folder: Path, *, late: float, beyond: int
    ) -> None:
        self.bench, self.config, self.data, self.folder = bench, config, data, folder
        self.late, self.beyond = late, beyond
        self.esgf = Esgf(config.esgf)
        self.stopped_at: int | None = None
        self.norms: list[float] = []
        self.rows: list[dict[str, Any]] = []

    def is_late(self) -> bool:
        """Whether the controller would have ended the stage, and training has gone on for long enough."""
        knee, last = self.esgf.verdict.knee, self.rows[-1]["step"]
        return self.stopped_at is not None and (knee is None or last >= max(self.late * knee, knee + self.beyond))

    def note(self, row: dict[str, Any]) -> None:
        """Take in one evaluation."""
        self.rows.append(row)
        verdict = self.esgf.update(row["step"], row["psnr"], row["perceptual"])
        if verdict.status != "running" and self.stopped_at is None:
            self.stopped_at = row["step"]
        scores = f"{row['psnr']:.3f} dB, {row['perceptual']:.4f}"
        print(f"  step {row['step']}: {scores}, {verdict.status}, knee {verdict.knee}", file=sys.stderr)

    def __call__(self, state: TrainState) -> None:
        """Measure the averaged weights at the present step: the points that the trainer's own watch would take."""
        weights = averaged_network(state).state_dict()
        scores = score(self.bench, self.config, [weights], self.data, (1, 4))
        recent = self.norms[-NORMS:]
        write_tensors(checkpoint_path(self.folder, state.step), weights)
        row = {
            "step": state.step,
            "psnr": statistics.fmean(scores[f"{task}/psnr_1"] for task in self.data.tasks),
            "perceptual": statistics.fmean(scores[f"{task}/perceptual_4"] for task in self.data.tasks),
            "nonfinite": state.nonfinite,
            "grad_norm": statistics.fmean(recent) if recent else None,
        }
        self.note({**row, **health(self.bench, self.config, [weights], self.data)})


def checkpoint_path(folder: Path, step: int) -> Path:
    """File of the weights at a step."""
    return folder / f"step-{step:08d}.safetensors"


def fingerprint(weights: Weights) -> str:
    """Short hash of weights, to tell parts of one start from those of another."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def cell(folder: Path, name: str, settings: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A part that is there already, or a new one.

    Raises:
        ConfigError: the part was made with other settings.
    """
    path, wanted = folder / f"{name}.json", json.loads(json.dumps(settings))
    if path.is_file():
        part = json.loads(path.read_text(encoding="utf-8"))
        differing = sorted(key for key in wanted | part["settings"] if wanted.get(key) != part["settings"].get(key))
        if differing:
            raise ConfigError(
                f"part {path.name} was made with another {', '.join(differing)}",
                hint="give another --parts folder, or delete the part",
            )
        return part["result"]
    result = make()
    write_json(path, {"settings": wanted, "result": result})
    return json.loads(path.read_text(encoding="utf-8"))["result"]


def over_seeds(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Mean, sample standard deviation (None of a single seed) and values of each key that all seeds have, in order."""
    result = {}
    for key in (name for name in rows[0] if all(name in row for row in rows)):
        values = [row[key] for row in rows]
        result[key] = {
            "mean": statistics.fmean(values),
            "std": statistics.stdev(values) if len(values) > 1 else None,
            "values": values,
        }
    return result
