"""What the training of the tagger needs to go on as if it had never stopped, in one file written atomically.

The file is a torch archive read back with `weights_only=True`, as that of the other stages.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from linearsr.config import to_dict
from linearsr.errors import TrainingError
from linearsr.tags.compact_network import TaggerNetwork
from linearsr.tags.vocabulary import DEGRADATIONS
from linearsr_train.tagger_config import TaggerConfig

__all__ = ["STATE_NAME", "TaggerState", "fresh_state", "load_state", "save_state"]

STATE_NAME = "tagger-last.pt"
FREE_TO_CHANGE = frozenset(
    ["max_steps", "num_workers", "checkpoint_steps", "calibration_samples", "report_samples", "target_precision"]
)
"""Settings that a resumed training may change: none alters a step that was already taken."""


@dataclass(slots=True)
class TaggerState:
    """A training in memory."""

    config: TaggerConfig
    seed: int
    network: TaggerNetwork
    optimizer: torch.optim.Optimizer
    step: int = 0

    def key(self) -> str:
        """The settings that the steps so far depend on."""
        fixed = {name: value for name, value in to_dict(self.config).items() if name not in FREE_TO_CHANGE}
        return json.dumps({**fixed, "seed": self.seed}, sort_keys=True)


def fresh_state(config: TaggerConfig, seed: int) -> TaggerState:
    """Seeded weights and an optimizer; the generator that all share is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = TaggerNetwork(config.model(), len(DEGRADATIONS))
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    groups = [
        {"params": [p for p in network.parameters() if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in network.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return TaggerState(config, seed, network, torch.optim.AdamW(groups, lr=config.learning_rate))


def save_state(state: TaggerState, folder: Path) -> None:
    """Write the state; an older file stays whole until the new one is complete."""
    path = folder / STATE_NAME
    temporary = path.with_suffix(".tmp")
    torch.save(
        {
            "key": state.key(),
            "step": state.step,
            "network": state.network.state_dict(),
            "optimizer": state.optimizer.state_dict(),
        },
        temporary,
    )
    with temporary.open("r+b") as file:  # Windows syncs only what is open for writing
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_state(state: TaggerState, folder: Path) -> None:
    """Take up a saved training in place.

    Raises:
        TrainingError: the file is damaged, or a setting that changes steps already taken is another one.
    """
    path = folder / STATE_NAME
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        before, now = json.loads(saved["key"]), json.loads(state.key())
    except Exception as error:
        raise TrainingError(
            f"checkpoint {str(path)!r} cannot be read: {error}", hint="remove it to train the tagger anew"
        ) from error
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if changed:
        raise TrainingError(
            f"the tagger's settings differ from the training to resume in {', '.join(changed)}",
            hint=f"use its own settings, or remove {STATE_NAME} to train anew",
        )
    state.network.load_state_dict(saved["network"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.step = int(saved["step"])
