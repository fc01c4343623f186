"""The watch over a stage: validates it, feeds its controller, keeps the checkpoints that may still be needed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from linearsr.errors import ConfigError, TrainingError
from linearsr.model.experts import ExpertBank
from linearsr.model.transformer import LinearDiT
from linearsr_train.build import averaged_network
from linearsr_train.context import Run, stage_dataset
from linearsr_train.data.batches import Batch
from linearsr_train.esgf import Verdict
from linearsr_train.evaluate import ValidationSet, sample_rows, time_grid, validate
from linearsr_train.experts import Stage, boundaries_log_snr
from linearsr_train.instruments import attention_health
from linearsr_train.report import contact_sheet
from linearsr_train.shards import full_model_state, full_tensors
from linearsr_train.state import TrainState
from linearsr_train.weights import write_tensors

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Watch", "broadcast", "keep_path", "ranked_steps"]

WATCHED_STEPS = (4, 8, 20)
"""The watch samples with the first of these whose time grid uses the stage's expert."""
COLLAPSE_HINT = "the last checkpoint is whole; start a new run with a lower learning rate of this stage"


def keep_path(folder: Path, step: int) -> Path:
    """File of a checkpoint that the controller may still need."""
    return folder / "keep" / f"step-{step:08d}.safetensors"


class Watch:
    """Validates a stage, feeds its controller, keeps the checkpoints it may still need."""

    def __init__(self, run: Run, stage: Stage, folder: Path) -> None:
        self.run, self.stage, self.folder = run, stage, folder
        self.boundaries = () if stage.kind == "pretrain" else boundaries_log_snr(run.config.experts)
        self._others: dict[int, LinearDiT] = {}
        grid = ExpertBank(self.boundaries, self._load)
        flow = run.config.flow
        used = [count for count in WATCHED_STEPS if stage.expert in grid.used_by(time_grid(flow, count))]
        if not used:
            raise ConfigError(
                f"expert {stage.expert} serves none of the steps of {', '.join(map(str, WATCHED_STEPS))}-step grids",
                hint="widen its interval in experts.boundaries",
            )
        self.steps = used[0]

    def _load(self, expert: int) -> LinearDiT:
        """Network of an expert that is not in training, as far as it has come."""
        if expert not in self._others:
            weights = self.run.book.best(expert)
            assert weights is not None, "an expert's stage starts from weights"
            network = LinearDiT(self.run.config.model)
            network.load_state_dict(weights)
            device = self.run.accelerator.device
            self._others[expert] = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        return self._others[expert]

    def bank(self, network: LinearDiT) -> ExpertBank:
        """All experts, with the one in training as it is now."""
        mine = self.stage.expert
        return ExpertBank(self.boundaries, lambda e: network if e == mine else self._load(e), keep=16)

    def _point(self, scores: dict[str, float]) -> tuple[float, float]:
        """(PSNR, perceptual distance) that the controller watches: PSNR of one step if this expert learns t = 1."""
        learns_one = self.stage.holds_one and self.run.config.loss.t_one_probability > 0
        count = 1 if learns_one else self.steps
        tasks = list(self.run.validation.tasks)
        psnr = sum(scores[f"{task}/psnr_{count}"] for task in tasks) / len(tasks)
        return psnr, sum(scores[f"{task}/perceptual_{self.steps}"] for task in tasks) / len(tasks)

    def _measure(self, state: TrainState, network: LinearDiT) -> dict[str, float]:
        run, bank = self.run, self.bank(network)
        settings: dict[str, Any] = dict(device=run.accelerator.device, autocast_dtype=run.autocast_dtype)
        counts = (1, self.steps)
        scores = validate(
            bank, run.terms.autoencoder, run.validation, run.config, steps=counts, perceptual=run.perceptual, **settings
        )
        one = ValidationSet({task: entries[:1] for task, entries in run.validation.tasks.items()})

        def look() -> None:
            validate(bank, run.terms.autoencoder, one, run.config, steps=(self.steps,), **settings)

        health = attention_health(network, look)
        rows = sample_rows(bank, run.terms.autoencoder, run.validation, run.config, steps=counts, **settings)
        contact_sheet(run.folder / "samples" / f"{self.stage.name}.png", rows)
        return {**scores, **health}

    def __call__(self, state: TrainState) -> None:
        """Validate the averaged weights at the present step."""
        run, step = self.run, state.step
        network = averaged_network(state)
        model, ema = full_model_state(state.model), full_tensors(state.ema.shadow)
        values: list[dict[str, float] | None] = [None]
        if run.accelerator.is_main_process:
            values = [self._measure(state, network)]
            tensors = {f"model/{k}": v for k, v in model.items()} | {f"ema/{k}": v for k, v in ema.items()}
            keep_path(self.folder, 0).parent.mkdir(parents=True, exist_ok=True)
            write_tensors(keep_path(self.folder, step), tensors)
        scores = broadcast(run.accelerator, values)[0]
        assert scores is not None, "the main process has validated"
        psnr, perceptual = self._point(scores)
        verdict = state.esgf.update(step, psnr, perceptual)
        if run.accelerator.is_main_process:
            self._write_down(state, ema, scores)
        if verdict.status == "collapse" and not self._can_go_back(verdict):
            raise TrainingError(f"{self.stage.name} step {step}: {verdict.reason}", hint=COLLAPSE_HINT)

    def _write_down(self, state: TrainState, ema: dict[str, torch.Tensor], scores: dict[str, float]) -> None:
        run, step, verdict = self.run, state.step, state.esgf.verdict
        psnr, perceptual = self._point(scores)
        self._rotate(state)
        run.log.write("validation", stage=self.stage.name, step=step, status=verdict.status, **scores)
        run.log.curve(self.folder, step, {"psnr": psnr, "perceptual": perceptual, "status": verdict.status, **scores})
        text = f"PSNR {psnr:.3f} dB, perceptual {perceptual:.4f} ({self.steps} steps), {verdict.status}"
        run.report(f"{self.stage.name} step {step}: {text}")
        if self.stage.kind == "pretrain" and psnr >= max(e.psnr for e in state.esgf.evaluations):
            run.on_improved(ema, scores)

    def _can_go_back(self, verdict: Verdict) -> bool:
        """Whether there is a knee; the start of a network that began from nothing is none."""
        from_nothing = self.stage.kind == "pretrain" and not self.run.config.init
        return verdict.knee is not None and not (verdict.knee == 0 and from_nothing)

    def _rotate(self, state: TrainState) -> None:
        """Drop checkpoints that neither the controller nor a choice by the budget can name any more."""
        keep = {*state.esgf.kept_steps(), *ranked_steps(state)[:1], state.step}
        for path in (self.folder / "keep").glob("step-*.safetensors"):
            if int(path.stem.removeprefix("step-")) not in keep:
                path.unlink()

    def nonfinite(self, state: TrainState, batch: Batch) -> None:
        """Tell the controller of a loss or gradients that are not finite; without a knee to go back to, give up."""
        run, names = self.run, self.describe(batch)
        run.log.write("nonfinite", stage=self.stage.name, step=state.step, skips=state.nonfinite, samples=names)
        verdict = state.esgf.update(state.step + 1, math.nan, math.nan, finite=False)
        listed = "; ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        what = f"{self.stage.name} step {state.step}: the loss or its gradient is not finite on the batch of {listed}"
        if not self._can_go_back(verdict):
            raise TrainingError(what, hint=COLLAPSE_HINT)
        run.report(f"{what}; going back to step {verdict.knee}")

    def describe(self, batch: Batch) -> list[str]:
        """What the samples of a batch are."""
        dataset = stage_dataset(self.run, self.stage)
        return [dataset.describe(batch.first_index + i) for i in range(batch.hr.shape[0])]


def broadcast(accelerator: Accelerator, values: list[Any]) -> list[Any]:
    """What the main process holds, on every process."""
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list(values) if accelerator.num_processes > 1 else values


def ranked_steps(state: TrainState) -> list[int]:
    """Evaluated steps, best first: both gains over the start, each over its largest or what counts as a gain at all."""
    points = [e for e in state.esgf.evaluations if math.isfinite(e.psnr) and math.isfinite(e.perceptual)]
    if not points:
        return []
    start, floor = points[0], state.config.esgf
    up = max(floor.least_psnr_gain, max(e.psnr for e in points) - start.psnr)
    down = max(floor.least_perceptual_gain, start.perceptual - min(e.perceptual for e in points))
    score = {e.step: (e.psnr - start.psnr) / up + (start.perceptual - e.perceptual) / down for e in points}
    return sorted(score, key=lambda step: (-score[step], step))
