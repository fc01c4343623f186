"""A model adapted to photographs of one kind: a run of expert stages that starts from the model itself.

Model, autoencoder, flow and boundaries come from the checkpoint; sampling, tags and tagger pass through it unchanged.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from linearsr.atomic import write_bytes
from linearsr.checkpoint import CONFIG_NAME, checked_file, read_config, save_checkpoint
from linearsr.config import CheckpointConfig, ExpertsConfig, to_dict
from linearsr.errors import ConfigError, TrainingError, WeightsError
from linearsr.flow import t_from_log_snr
from linearsr.hub import find_model
from linearsr.model.lora import check_rank, save_lora
from linearsr.tags.vocabulary import COMPACT_VOCABULARY
from linearsr_train.config import TrainConfig, parse_recipe, read_toml
from linearsr_train.context import Progress
from linearsr_train.data.split import PhotoSplit
from linearsr_train.experts import plan_stages, read_json, stage_folder
from linearsr_train.export import lora_info
from linearsr_train.run import RunResult, run_training
from linearsr_train.weights import DONE_NAME, LORA_NAME, RESULT_NAME, WeightBook, write_tensors

__all__ = ["FULL_OVERRIDES", "FinetuneResult", "finetune_config", "run_finetune"]

FULL_OVERRIDES = ("experts.mode=full", "stages.experts.learning_rate=6e-5")
"""Whole networks in place of a LoRA; they learn at a lower rate."""
OWN_SECTIONS = ("model", "autoencoder", "flow", "init", "tagger", "data.content_tags", "stages.pretrain")
OWN_SETTINGS = (*OWN_SECTIONS, "experts.boundaries", "experts.lora_export")
"""Settings that the model decides, or that have no meaning here."""
RECORD_NAME = "finetune.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneResult:
    """How the training ended, and what came out if it is finished."""

    run: RunResult
    export: Path | None
    """Whole model, for `--model`."""
    lora: Path | None
    """Low-rank part alone, for `--lora`; None in mode `full`."""

    @property
    def has_changed(self) -> bool:
        """Whether a step was better than the start on the watched photographs, for any expert."""
        return any(done["chosen"] > 0 for done in self.run.stages.values())


def finetune_config(model: str, overrides: Sequence[str] = ()) -> tuple[TrainConfig, CheckpointConfig]:
    """The packaged recipe around a model, and the model's own config.

    Args:
        model: `compact`, a checkpoint folder or a Hub id.
        overrides: `section.field=value`, as `parse_recipe`.

    Raises:
        WeightsError: no such model.
        ConfigError: a model of another family, or an override that does not fit.
    """
    for assignment in overrides:
        name = assignment.partition("=")[0].strip()
        if any(name == own or name.startswith(f"{own}.") for own in OWN_SETTINGS):
            raise ConfigError(f"{name} cannot be set, it is the model's own", hint="leave it out")
    try:
        checkpoint = read_config(find_model(model).fetch(CONFIG_NAME).parent)
    except WeightsError as error:
        hint = None if error.hint is None else error.hint.replace("--model", "--from")
        raise WeightsError(error.message, hint=hint) from error
    if checkpoint.family != "compact" or checkpoint.autoencoder.kind != "pixel":
        raise ConfigError(
            f"model {model!r} is of the family {checkpoint.family!r}, expected 'compact'", hint="use `--from compact`"
        )
    data = read_toml("finetune")
    for section in ("model", "autoencoder", "flow"):
        data[section] = to_dict(getattr(checkpoint, section))
    data["experts"]["boundaries"] = [float(t_from_log_snr(v)) for v in checkpoint.experts.boundaries_log_snr]
    data["data"]["content_tags"] = list(checkpoint.tags.vocabulary[len(COMPACT_VOCABULARY) :])
    config = parse_recipe({**data, "init": model}, tuple(overrides))
    check_rank(config.experts.lora_rank, config.experts.lora_alpha)
    return config, checkpoint


def _check_experts(experts: Sequence[int] | None, count: int) -> tuple[int, ...]:
    known = tuple(range(count))
    if experts is None:
        return known
    for expert in experts:
        if expert not in known:
            expected = f"numbers from 0 to {count - 1}" if count > 1 else "0, as the model has one network"
            raise ConfigError(f"expert {expert} is unknown, expected {expected}", hint="expert 0 has the least noise")
    if not experts:
        raise ConfigError("no expert is named, expected at least one", hint="leave `--experts` out to train all")
    return tuple(sorted(set(experts)))


def _open(folder: Path, record: dict[str, Any]) -> None:
    """Write down what the run was begun with, or refuse to go on with something else.

    Raises:
        TrainingError: names what differs.
    """
    if not (folder / "log.jsonl").is_file():
        if not (folder / "config.json").exists():  # a folder of another program is refused by the run
            folder.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / RECORD_NAME, (json.dumps(record, indent=2) + "\n").encode())
        return
    before = read_json(folder / RECORD_NAME)
    if changed := [name for name, value in record.items() if before.get(name) != value]:
        raise TrainingError(
            f"{', '.join(changed)} differ from the run to resume in {str(folder)!r}",
            hint="give what it was begun with, or another `--output-dir`",
        )


def _keep_experts(config: TrainConfig, folder: Path, trained: tuple[int, ...]) -> None:
    """Leave the other experts' stages finished before they begin, with the weights as they are."""
    book = WeightBook(config, folder)
    for stage in plan_stages(config):
        weights, place = book.shared(stage.expert), stage_folder(folder, stage)
        if stage.expert in trained or weights is None or (place / DONE_NAME).is_file():
            continue
        place.mkdir(parents=True, exist_ok=True)
        write_tensors(place / RESULT_NAME, weights)
        done = {"stage": stage.name, "ending": "kept", "steps": 0, "chosen": 0, "verdict": {}, "scores": {}}
        write_bytes(place / DONE_NAME, (json.dumps(done, indent=2) + "\n").encode())


def _export(config: TrainConfig, checkpoint: CheckpointConfig, folder: Path, summary: dict[str, Any]) -> Path:
    """Write the whole model: new weights; sampling, tags and tagger of the old one."""
    book, export, source = WeightBook(config, folder), folder / "export", find_model(config.init)
    made, tagger = read_config(export), checkpoint.tags.tagger
    found = [book.best(expert) for expert in range(book.num_experts)]
    networks: list[Mapping[str, Tensor]] = [weights for weights in found if weights is not None]
    extra = {} if tagger is None else {tagger: checked_file(source.fetch(tagger).parent, checkpoint, tagger)}
    names = tuple(f"expert-{expert}.safetensors" for expert in range(len(networks)))
    written = replace(
        made,
        experts=ExpertsConfig(boundaries_log_snr=checkpoint.experts.boundaries_log_snr, files=names),
        sampling=checkpoint.sampling,
        tags=checkpoint.tags,
        files={},
        training={**made.training, **summary},
    )
    save_checkpoint(export, written, networks, extra=extra)
    return export


def _save_lora(
    config: TrainConfig, checkpoint: CheckpointConfig, folder: Path, trained: tuple[int, ...], summary: dict[str, Any]
) -> Path:
    book, path = WeightBook(config, folder), folder / LORA_NAME
    parts = {expert: part for expert in trained if (part := book.lora(expert)) is not None}
    info = lora_info(config, tuple(parts), summary)
    save_lora(path, parts, replace(info, boundaries_log_snr=checkpoint.experts.boundaries_log_snr))
    return path


def run_finetune(
    config: TrainConfig,
    checkpoint: CheckpointConfig,
    split: PhotoSplit,
    folder: Path,
    *,
    experts: Sequence[int] | None = None,
    resume: Literal["auto", "latest", "never"] = "auto",
    licence: str | None = None,
    lpips_weights: Path | None = None,
    max_hours: float | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> FinetuneResult:
    """Train the experts of a model on photographs of one kind, and export it.

    Args:
        config, checkpoint: from `finetune_config`.
        split: from `data.split.split_photos`.
        folder: run folder, as `run_training`; with export/ and, in mode `lora`, lora.safetensors.
        experts: those to train; None trains all. The others stay as they are, bit for bit.
        licence: of the new weights; None keeps the model's own.
        resume, lpips_weights, max_hours, device, progress, report: as `run_training`.

    Raises:
        TrainingError, ConfigError: as `run_training`; or the run to resume was begun with other photographs, another
            model or other experts.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("finetuning runs in one process", hint="start it without torchrun")
    trained = _check_experts(experts, len(config.experts.boundaries) + 1)
    photos = {name: [p.name for p in getattr(split, name)] for name in ("training", "watched", "held_back")}
    weights = {name: checkpoint.files[name].sha256 for name in checkpoint.experts.files if name in checkpoint.files}
    record = {"weights": weights, "experts": list(trained), **photos}
    if resume != "never" or not (folder / "log.jsonl").is_file():  # else the run itself refuses
        _open(folder, record)
        _keep_experts(config, folder, trained)
    result = run_training(
        config, (split.training, split.watched), folder, resume=resume, lpips_weights=lpips_weights,
        licence=checkpoint.licence if licence is None else licence, max_hours=max_hours, device=device,
        progress=progress, report=report,
    )  # fmt: skip
    if not result.finished:
        return FinetuneResult(run=result, export=None, lora=None)
    summary = {"finetuned_from": {"name": find_model(config.init).name, "weights": weights}, "experts_trained": trained}
    lora = config.experts.mode == "lora"
    return FinetuneResult(
        run=result,
        export=_export(config, checkpoint, folder, summary),
        lora=_save_lora(config, checkpoint, folder, trained, summary) if lora else None,
    )
