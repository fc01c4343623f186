"""Weights on their way through a run: where a stage starts, what it leaves behind, which networks are the best now.

A stage leaves `result.safetensors` (averaged weights of the chosen step, plain names) and, with LoRA experts, the
low-rank part alone in `lora.safetensors`. `done.json` comes last: a stage without it is not finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from linearsr.atomic import write_bytes
from linearsr.checkpoint import CONFIG_NAME, load_network, read_config
from linearsr.config import CheckpointConfig, to_dict
from linearsr.errors import ConfigError, ImageError, TrainingError
from linearsr.hub import find_model
from linearsr_train.config import TrainConfig
from linearsr_train.experts import Stage, boundaries_log_snr, read_json
from linearsr_train.state import changed_fields

__all__ = ["DONE_NAME", "RESULT_NAME", "WeightBook", "averaged", "read_init", "read_tensors", "write_tensors"]

DONE_NAME, RESULT_NAME, LORA_NAME, START_NAME = "done.json", "result.safetensors", "lora.safetensors", "start.json"
PLACES = ("autoencoder.source", "autoencoder.decoder")
"""Settings that say where a part lies and not what it is."""
Weights = dict[str, Tensor]


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write plain tensors as one safetensors file, atomically.

    Raises:
        TrainingError: the disk is full or refuses; an older file is untouched.
    """
    try:
        write_bytes(path, save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}))
    except ImageError as error:
        raise TrainingError(error.message, hint="free some space and run the same command again") from error


def read_tensors(path: Path) -> Weights:
    """Read what `write_tensors` wrote.

    Raises:
        TrainingError: the file is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{str(path)!r} cannot be read: {error}", hint="start a new run") from error


def read_init(config: TrainConfig) -> tuple[CheckpointConfig, list[Weights]]:
    """Config and networks of the model a run starts from, one for each of its experts.

    Raises:
        WeightsError: no such model.
        ConfigError: its network or its experts are not those of the recipe.
    """
    source = find_model(config.init)
    checkpoint = read_config(source.fetch(CONFIG_NAME).parent)
    for section in ("model", "autoencoder", "flow"):
        mine, theirs = to_dict(getattr(config, section)), to_dict(getattr(checkpoint, section))
        differing = [name for name in changed_fields(theirs, mine, f"{section}.") if name not in PLACES]
        if differing:
            raise ConfigError(
                f"model {config.init!r} differs from the recipe in {', '.join(differing)}",
                hint="use the recipe it was made with, or `linearsr finetune`, which takes these from the model",
            )
    cuts, ours = checkpoint.experts.boundaries_log_snr, boundaries_log_snr(config.experts)
    if cuts and (len(cuts) != len(ours) or any(abs(a - b) > 1e-3 for a, b in zip(cuts, ours, strict=True))):
        raise ConfigError(
            f"model {config.init!r} has {len(cuts) + 1} experts cut at log-SNR {cuts}, the recipe cuts at {ours}",
            hint="start from a model with one network, or give its boundaries with `--set experts.boundaries=[...]`",
        )
    networks = []
    for index, name in enumerate(checkpoint.experts.files):
        folder = source.fetch(name).parent
        networks.append(dict(load_network(folder, checkpoint, index, torch.device("cpu")).state_dict()))
    return checkpoint, networks


def averaged(tensors: Weights) -> Weights:
    """The averaged weights among those of a kept checkpoint, by their plain names."""
    return {name.removeprefix("ema/"): value for name, value in tensors.items() if name.startswith("ema/")}


class WeightBook:
    """Looks up the networks of a run.

    Args:
        config: of the run.
        run_folder: its folder.
    """

    def __init__(self, config: TrainConfig, run_folder: Path) -> None:
        self.config = config
        self.stages = run_folder / "stages"
        self._init: list[Weights] | None = None

    @property
    def num_experts(self) -> int:
        """Experts that the recipe asks for."""
        return len(self.config.experts.boundaries) + 1

    @property
    def has_experts(self) -> bool:
        """Whether an expert has been finished, or the run started from experts."""
        names = [f"{kind}-{e}" for kind in ("expert", "sft") for e in range(self.num_experts)]
        return any(self.is_done(name) for name in names) or (bool(self.config.init) and len(self.init()) > 1)

    def is_done(self, name: str) -> bool:
        """Whether a stage has left its result."""
        return (self.stages / name / DONE_NAME).is_file()

    def init(self) -> list[Weights]:
        """Networks of the model that the run starts from."""
        if self._init is None:
            self._init = read_init(self.config)[1] if self.config.init else []
        return self._init

    def shared(self, expert: int) -> Weights | None:
        """Weights an expert starts from: the pretraining's result, else the run's own start; None is from nothing."""
        if self.is_done("pretrain"):
            return read_tensors(self.stages / "pretrain" / RESULT_NAME)
        networks = self.init()
        return networks[expert if len(networks) > 1 else 0] if networks else None

    def base(self, expert: int) -> Weights | None:
        """What an expert's own training begins from: `shared`, or the elbow's average where it had to fall back."""
        elbow = self._elbow(expert)
        return averaged(read_tensors(self.stages / "pretrain" / elbow)) if elbow else self.shared(expert)

    def common_base(self) -> Weights | None:
        """The one network that all experts began from; None where they began from several."""
        one = self.is_done("pretrain") or len(self.init()) == 1
        return self.shared(0) if one and not any(map(self._elbow, range(self.num_experts))) else None

    def _elbow(self, expert: int) -> str | None:
        return read_json(self.stages / f"expert-{expert}" / START_NAME).get("elbow_file")

    def start(self, stage: Stage) -> Weights | None:
        """Merged weights a stage starts from; None is from nothing."""
        if stage.kind == "pretrain":
            networks = self.init()
            if len(networks) > 1:
                raise ConfigError(
                    f"model {self.config.init!r} has {len(networks)} experts, expected one network to pretrain",
                    hint="leave the pretraining out with `--set stages.pretrain.max_steps=0`",
                )
            return networks[0] if networks else None
        if stage.kind == "sft" and self.is_done(f"expert-{stage.expert}"):
            return read_tensors(self.stages / f"expert-{stage.expert}" / RESULT_NAME)
        return self.base(stage.expert)

    def start_lora(self, stage: Stage) -> tuple[Weights | None, Weights | None]:
        """(base, low-rank part) a LoRA stage starts from; the part is None where it starts at nothing."""
        before = self.stages / f"expert-{stage.expert}" / LORA_NAME
        if stage.kind == "sft" and before.is_file():
            return self.base(stage.expert), read_tensors(before)
        return self.start(stage), None

    def best(self, expert: int) -> Weights | None:
        """The furthest finished network of an expert."""
        for kind in ("sft", "expert"):
            if self.is_done(f"{kind}-{expert}"):
                return read_tensors(self.stages / f"{kind}-{expert}" / RESULT_NAME)
        return self.shared(expert)

    def lora(self, expert: int) -> Weights | None:
        """The furthest finished low-rank part of an expert."""
        for kind in ("sft", "expert"):
            if self.is_done(f"{kind}-{expert}") and (self.stages / f"{kind}-{expert}" / LORA_NAME).is_file():
                return read_tensors(self.stages / f"{kind}-{expert}" / LORA_NAME)
        return None
