"""The launch examples: valid bash, the command they build, and when a Slurm job goes back into the queue."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[2] / "train" / "launch"


def run_script(name: str, folder: Path, stubs: dict[str, str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a launch example with stand-ins for the programs that this machine lacks."""
    for program, body in stubs.items():
        (folder / program).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / program).chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", LAUNCH / name, *environment.pop("ARGS", "").split()],
        capture_output=True, text=True, cwd=folder, env={**os.environ, "PATH": path, **environment},
    )  # fmt: skip


@pytest.mark.parametrize("name", ["torchrun.sh", "slurm.sbatch"])
def test_launch_examples_are_valid_bash(name: str) -> None:
    done = subprocess.run(["bash", "-n", LAUNCH / name], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_torchrun_example_launches_one_or_several_nodes(tmp_path: Path) -> None:
    show = {"torchrun": 'printf "%s\\n" "$@"'}
    one = run_script("torchrun.sh", tmp_path, show, NPROC="2", ARGS="--data photos").stdout.split()
    assert {"--standalone", "--nproc-per-node=2"} <= set(one)
    assert one[one.index("-m") :] == ["-m", "linearsr_cli.app", "train", "--data", "photos"]
    several = run_script("torchrun.sh", tmp_path, show, NNODES="3", NODE_RANK="1", MASTER_ADDR="node0").stdout.split()
    assert {"--nnodes=3", "--node-rank=1", "--rdzv-endpoint=node0:29500"} <= set(several)
    assert "--standalone" not in several


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (143, True), (138, True)])
def test_slurm_example_requeues_a_run_that_was_told_to_stop(tmp_path: Path, code: int, requeued: bool) -> None:
    stubs = {
        "srun": f'export SLURM_PROCID=1 SLURM_LOCALID=1 SLURM_NTASKS=2; "${{@:2}}" >> ran; exit {code}',
        "python": 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $MASTER_ADDR $*"',
        "scontrol": 'if [[ $1 == show ]]; then echo node7; else echo "$*" >> requeued; fi',
    }
    slurm = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    done = run_script("slurm.sbatch", tmp_path, stubs, **slurm, SLURM_CPUS_PER_TASK="4")
    assert (tmp_path / "ran").read_text().startswith("1 1 2 2 node7 -m linearsr_cli.app train"), done.stderr
    assert "--resume auto" in (tmp_path / "ran").read_text()
    assert (tmp_path / "requeued").exists() == requeued
    assert done.returncode == (0 if requeued else code)


def test_accelerate_example_is_one_that_accelerate_reads() -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(LAUNCH / "accelerate_fsdp.yaml"))
    assert (str(config.distributed_type.value), config.fsdp_config["fsdp_version"]) == ("FSDP", 2)
