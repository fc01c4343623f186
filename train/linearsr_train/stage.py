"""One stage of a run: takes it up or starts it, watches it, and leaves its result.

The folder of a stage holds `last.pt` (to resume), `curve.csv`, `keep/` (checkpoints that may still become the knee),
and at its end `result.safetensors` and `done.json`. All processes walk through the same code; the first one alone
validates and writes, and the scores are sent to the others, so that their controllers say the same.
"""

from __future__ import annotations

import csv
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from linearsr.atomic import write_bytes
from linearsr.model.lora import lora_state_dict, merged_state_dict
from linearsr_train.build import averaged_network, build_state
from linearsr_train.context import Run, stage_dataset
from linearsr_train.data.batches import batches
from linearsr_train.experts import Stage, stage_folder
from linearsr_train.loop import Ending, LossTerms, train
from linearsr_train.state import CHECKPOINT_NAME, TrainState, load_state
from linearsr_train.watch import Watch, broadcast, keep_path, ranked_steps
from linearsr_train.weights import DONE_NAME, LORA_NAME, RESULT_NAME, averaged, read_tensors, write_tensors

__all__ = ["StageOutcome", "run_stage"]


@dataclass(frozen=True, slots=True)
class StageOutcome:
    """How a stage ended."""

    ending: Ending
    step: int
    """Optimizer steps taken."""
    scores: dict[str, float]
    """Validation of the chosen weights."""


def _terms(run: Run, stage: Stage) -> LossTerms:
    """The loss of a stage: the experts below a time get the perceptual term, if there is one."""
    experts = run.config.experts
    wanted = stage.kind != "pretrain" and experts.perceptual_weight > 0
    inner = stage.expert < len(experts.boundaries) and experts.boundaries[stage.expert] <= experts.perceptual_below
    if not (wanted and inner):
        return run.terms
    assert run.lpips is not None, "checked when the run was opened"
    return replace(run.terms, perceptual=run.lpips.distance)


def run_stage(run: Run, stage: Stage) -> StageOutcome:
    """Train one stage to its end, or until the run is asked to stop.

    Raises:
        TrainingError: the loss is not finite and there is nothing to go back to, or the disk is full.
    """
    config, accelerator = run.config, run.accelerator
    folder = stage_folder(run.folder, stage)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "samples").mkdir(exist_ok=True)
    accelerator.wait_for_everyone()
    if stage.kind != "pretrain" and config.experts.mode == "lora":
        start, lora = run.book.start_lora(stage)
    else:
        start, lora = run.book.start(stage), None
    state = build_state(config, stage, accelerator, start, lora)
    if (folder / CHECKPOINT_NAME).is_file():
        load_state(state, folder)
    run.report(f"{stage.name}: from step {state.step} of {stage.settings.max_steps}")
    watch, settings, clock = Watch(run, stage, folder), stage.settings, time.monotonic()
    data = batches(
        stage_dataset(run, stage),
        config.loop.batch_size,
        state.step,
        settings.max_steps,
        config.data.num_workers,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    progress = run.progress
    ending = train(
        state,
        data,
        _terms(run, stage),
        folder,
        run.log,
        on_validation=watch,
        on_nonfinite=watch.nonfinite,
        on_progress=None if progress is None else lambda s, v: progress(stage.name, s.step, settings.max_steps, v),
        should_stop=run.should_stop,
    )
    if ending == "stopped":
        return StageOutcome(ending, state.step, {})
    scores = _finish(run, stage, state, ending, time.monotonic() - clock) if accelerator.is_main_process else {}
    accelerator.wait_for_everyone()
    return StageOutcome(ending, state.step, broadcast(accelerator, [scores])[0])


def _finish(run: Run, stage: Stage, state: TrainState, ending: Ending, seconds: float) -> dict[str, float]:
    """Write what the next stage starts from; gives the scores of the chosen step."""
    folder, verdict = stage_folder(run.folder, stage), state.esgf.verdict
    chosen = verdict.knee if verdict.knee is not None and ending != "budget" else ranked_steps(state)[0]
    ema = averaged(read_tensors(keep_path(folder, chosen)))
    if lora := lora_state_dict(ema):
        write_tensors(folder / LORA_NAME, lora)
        network = averaged_network(state)
        network.load_state_dict(ema)
        ema = merged_state_dict(network)
    write_tensors(folder / RESULT_NAME, ema)
    point = next(e for e in state.esgf.evaluations if e.step == chosen)
    scores = _scores_at(folder, chosen)
    done = {
        "stage": stage.name,
        "ending": ending,
        "steps": state.step,
        "chosen": chosen,
        "verdict": asdict(verdict),
        "psnr": point.psnr,
        "perceptual": point.perceptual,
        "scores": scores,
        "seconds": round(seconds, 1),
    }
    # First, since a stage that is done is never looked at again: a kill in between would leave them for ever.
    keep = {keep_path(folder, step) for step in (chosen, verdict.elbow) if step is not None}
    for path in (folder / "keep").glob("step-*.safetensors"):
        if path not in keep:
            path.unlink()
    write_bytes(folder / DONE_NAME, (json.dumps(done, indent=2) + "\n").encode())
    run.log.write("stage_end", **done)
    run.report(f"{stage.name}: {ending} after {state.step} steps, went on with step {chosen}")
    return scores


def _scores_at(folder: Path, step: int) -> dict[str, float]:
    """Row of a step in the stage's curve."""
    with (folder / "curve.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if int(row["step"]) == step:
                named = ((name, text) for name, text in row.items() if "/" in name and not name.startswith("attn/"))
                return {name: float(text) for name, text in named if text}
    return {}
