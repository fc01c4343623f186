"""What a run shows of itself between stages: whether the loader keeps up, and the curves as a picture."""

from __future__ import annotations

import logging
import time

from linearsr.errors import ConfigError
from linearsr_train.context import Run, stage_dataset
from linearsr_train.experts import Stage, read_json, stage_folder
from linearsr_train.report import throughput_line
from linearsr_train.runlog import read_log
from linearsr_train.weights import DONE_NAME

__all__ = ["draw_curves", "say_throughput"]

LONG_STAGE_S = 60.0
"""Drawing takes seconds; after a shorter stage it waits for the end of the run."""
TIMED_CROPS = 16


def say_throughput(run: Run, stage: Stage) -> None:
    """Whether the loader keeps up with the network: crops that one process makes alone, against the steps' own time."""
    if not run.accelerator.is_main_process:
        return
    steps = [e for e in read_log(run.folder / "log.jsonl") if e["event"] == "step" and e.get("stage") == stage.name]
    if not steps:
        return
    dataset, clock = stage_dataset(run, stage), time.perf_counter()
    for index in range(TIMED_CROPS):
        dataset[index]
    batch = run.config.loop.batch_size
    loader = (time.perf_counter() - clock) / TIMED_CROPS * batch / max(1, run.config.data.num_workers)
    network = sum(e["s_network"] for e in steps[-20:]) / len(steps[-20:])
    line = throughput_line(loader, network, batch)
    run.log.write("throughput", stage=stage.name, s_loader=round(loader, 4), s_network=round(network, 4))
    run.report(line)


def draw_curves(run: Run, after: Stage | None = None) -> None:
    """Plot all curves with their knees, where matplotlib is installed; after a stage only if that was long."""
    from linearsr_train.plots import draw_run

    is_soon = after is not None and read_json(stage_folder(run.folder, after) / DONE_NAME)["seconds"] < LONG_STAGE_S
    if is_soon or not run.accelerator.is_main_process:
        return
    try:
        draw_run(run.folder)
    except ConfigError as error:
        logging.getLogger(__name__).info("no plot of the curves: %s", error)
