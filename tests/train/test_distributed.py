"""One process against two: the same losses, weights and moments, whole states at any number of processes, no hanging.

The file is also the program that the tests launch on two processes: `test_distributed.py JOB FOLDER`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from linearsr.autoencoders.pixel import PixelAutoencoder
from linearsr.config import AutoencoderConfig, FlowConfig, ModelConfig
from linearsr.denoiser import apply_network
from linearsr.device import cpu_has_fast_bf16
from linearsr.errors import ConfigError, DeviceError, TrainingError
from linearsr.flow import add_noise
from linearsr.model.conditioning import Conditioning, pad_tag_ids
from linearsr.model.transformer import LinearDiT
from linearsr.resize import resize
from linearsr_train import distributed
from linearsr_train.config import LossConfig
from linearsr_train.distributed import (
    any_rank,
    build_accelerator,
    clip_gradients,
    copy_full_,
    full_model_state,
    full_optimizer_state,
    full_tensors,
    load_full_state,
    mean_over_ranks,
    prepare,
    rank_slice,
    unwrap,
)
from linearsr_train.ema import Ema
from linearsr_train.losses import draw_times, x0_loss

MODEL = ModelConfig(
    in_channels=48,
    cond_channels=48,
    width=16,
    depth=2,
    head_dim=8,
    cross_attention_head_dim=8,
    caption_channels=8,
    mlp_ratio=2.0,
    patch_size=2,
    stem="conv",
    stem_width=8,
    stem_depth=1,
    head_depth=1,
    long_skip=True,
    qk_norm=True,
    state_gate=True,
    scale_embedding=True,
    num_tags=7,
)
FLOW = FlowConfig(prediction="x0", preconditioned=True)
LOSS = LossConfig(t_one_probability=0.5, t_logit_mean=0.0, t_logit_std=1.0, max_weight=4.0)
AUTOENCODER = AutoencoderConfig(kind="pixel", factor=4, residual_std={"1": 0.02, "2": 0.03, "4": 0.045})
BATCH, CROP, MAX_NORM = 4, 32, 0.5
LOAD_AT, STEPS = 5, 10


# ---- a run in miniature


def network() -> LinearDiT:
    """Seeded, no branch silent, channels-last as in training."""
    torch.manual_seed(0)
    model = LinearDiT(MODEL)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value += torch.randn(value.shape) * (0.02 if name.startswith("conv_out") else 0.1)
    return model.to(memory_format=torch.channels_last)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    decay, plain = ([p for p in model.parameters() if (p.dim() > 1) == many] for many in (True, False))
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)


def batch_loss(model: nn.Module, step: int, rows: slice, context: Any = nullcontext) -> Tensor:
    """Mean loss over `rows` of a batch whose pictures, times and noise depend on the step alone."""
    generator = torch.Generator().manual_seed(step)
    hr = torch.rand(BATCH, 3, CROP, CROP, generator=generator)
    lr_up = resize(resize(hr, (CROP // 4, CROP // 4)), (CROP, CROP))
    autoencoder = PixelAutoencoder(AUTOENCODER)
    x0 = autoencoder.encode(hr, lr_up, torch.full((BATCH,), 0.3))
    t = draw_times(BATCH, LOSS, generator)
    x_t = add_noise(x0, torch.randn(x0.shape, generator=generator), t)
    tags, mask = pad_tag_ids([[1 + (step + row) % 7] for row in range(BATCH)])
    cond = Conditioning(
        lr=autoencoder.condition(lr_up)[rows],
        tags=tags[rows],
        tag_mask=mask[rows],
        log2_scale=torch.full((BATCH,), 2.0)[rows],
    )
    with context():
        x0_hat = apply_network(model, FLOW, x_t[rows], t[rows], cond)
    return x0_loss(x0_hat, x0[rows], t[rows], LOSS.max_weight)[0]


class Run:
    """A training through the functions under test."""

    def __init__(self, accelerator: Any, strategy: str) -> None:
        self.accelerator = accelerator
        self.model, self.optimizer = prepare(accelerator, network(), adamw, strategy)
        self.network = unwrap(accelerator, self.model)
        self.ema = Ema(self.network, 0.9)
        self.losses: list[float] = []
        self.norms: list[float] = []

    def train(self, first: int, last: int) -> Run:
        share = rank_slice(self.accelerator, BATCH // self.accelerator.gradient_accumulation_steps)
        for step in range(first, last):
            shown = 0.0
            for start in range(0, BATCH, BATCH // self.accelerator.gradient_accumulation_steps):
                with self.accelerator.accumulate(self.model):
                    rows = slice(start + share.start, start + share.stop)
                    loss = batch_loss(self.model, step, rows, self.accelerator.autocast)
                    self.accelerator.backward(loss)
                    shown += float(loss.detach()) / self.accelerator.gradient_accumulation_steps
            self.losses.append(mean_over_ranks(self.accelerator, shown))
            self.norms.append(clip_gradients(self.accelerator, self.model, self.optimizer, MAX_NORM))
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.ema.update(self.network)
        return self

    def result(self, *, rank0_only: bool = False) -> dict[str, Any]:
        return {
            "losses": self.losses,
            "norms": self.norms,
            "model": full_model_state(self.model, rank0_only=rank0_only),
            "optimizer": full_optimizer_state(self.optimizer, rank0_only=rank0_only),
            "ema": full_tensors(self.ema.state_dict()),
        }

    def load(self, saved: dict[str, Any]) -> Run:
        load_full_state(self.model, self.optimizer, saved["model"], saved["optimizer"])
        self.ema.updates = saved["ema"]["updates"]
        for name, value in self.ema.shadow.items():
            copy_full_(value, saved["ema"][f"shadow.{name}"])
        return self


def train_without_accelerate(steps: int, context: Any = nullcontext) -> tuple[list[float], list[float], nn.Module]:
    model = network()
    optimizer = adamw(model)
    losses, norms = [], []
    for step in range(steps):
        loss = batch_loss(model, step, slice(0, BATCH), context)
        loss.backward()
        losses.append(float(loss.detach()))
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return losses, norms, model


# ---- what two processes do


def accelerate_fsdp(**settings: Any) -> Any:
    """accelerate's own FSDP, which it keeps for accelerators, on the CPU: the state it would be in on GPUs."""
    from accelerate.utils import DistributedType

    accelerator = build_accelerator(device="cpu", **settings)
    accelerator.state.fsdp_plugin = distributed._fsdp_plugin()
    accelerator.state.distributed_type = DistributedType.FSDP
    return accelerator


def job_numbers(folder: Path) -> None:
    results: dict[str, Any] = {}
    single = torch.load(folder / "single.pt", weights_only=True)
    for name, strategy in {"ddp": "ddp", "fsdp": "fsdp", "accelerate_fsdp": "auto"}.items():
        build = accelerate_fsdp if name == "accelerate_fsdp" else build_accelerator
        settings = {} if name == "accelerate_fsdp" else {"device": "cpu", "strategy": strategy}
        accelerator = build(mixed_precision="no", **settings)
        run = Run(accelerator, strategy).train(0, LOAD_AT)
        results[f"{name}_half"] = run.result()
        results[name] = run.train(LOAD_AT, STEPS).result()
        results[f"{name}_local_numel"] = sum(
            (p.to_local() if hasattr(p, "to_local") else p).numel() for p in run.model.parameters()
        )
        results[f"{name}_loaded"] = Run(accelerator, strategy).load(single).train(LOAD_AT, STEPS).result()
        results[f"{name}_rank0_only"] = run.result(rank0_only=True)
        results[f"{name}_accumulated"] = (
            Run(build(mixed_precision="no", accumulation=2, **settings), strategy).train(0, 3).losses
        )
    rank = accelerator.process_index
    results["any"] = [any_rank(accelerator, flag) for flag in (False, rank == 1, rank == 0, True)]
    results["mean"] = [mean_over_ranks(accelerator, 1.0 + 2.0 * rank), mean_over_ranks(accelerator, torch.tensor(rank))]
    results["rows"] = list(range(BATCH))[rank_slice(accelerator, BATCH)]
    try:
        rank_slice(accelerator, 5)
    except ConfigError as error:
        results["odd"] = error.message
    accelerator.wait_for_everyone()
    torch.save(results, folder / f"rank{rank}.pt")
    accelerator.end_training()


def job_raise(folder: Path) -> None:
    accelerator = build_accelerator(device="cpu", mixed_precision="no")
    run = Run(accelerator, "ddp").train(0, 2)
    if accelerator.process_index == 1:
        raise RuntimeError("the disk is full")
    run.train(2, 1000)


def job_stuck(folder: Path) -> None:
    accelerator = build_accelerator(device="cpu", mixed_precision="no", timeout_s=3.0)
    any_rank(accelerator, False)
    if accelerator.process_index == 1:
        time.sleep(60)
    any_rank(accelerator, False)


def job_stop(folder: Path) -> None:
    """Step until a signal comes; rank 1 sees it late."""
    accelerator = build_accelerator(device="cpu", mixed_precision="no")
    seen: list[float] = []
    signal.signal(signal.SIGTERM, lambda *_: seen.append(time.monotonic() + 0.5 * accelerator.process_index))
    (folder / f"ready{accelerator.process_index}").touch()
    step = 0
    while not any_rank(accelerator, bool(seen) and time.monotonic() >= seen[0]):
        step += 1
        time.sleep(0.02)
    (folder / f"saved{accelerator.process_index}").write_text(str(step))
    accelerator.end_training()
    sys.exit(143)


def torchrun(job: str, folder: Path) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*launcher, __file__, job, str(folder)]


def launch(job: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(torchrun(job, folder), capture_output=True, text=True, timeout=300, env=environment)


# ---- one process


def close(found: list[float], expected: list[float]) -> bool:
    return len(found) == len(expected) and found == pytest.approx(expected, rel=1e-5)


def distance(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Largest difference between two states of tensors."""
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max()) for key in a if isinstance(a[key], Tensor))


def moments(result: dict[str, Any]) -> dict[str, Tensor]:
    states = result["optimizer"]["state"].items()
    return {f"{index}.{key}": value for index, state in states for key, value in state.items()}


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_one_process_trains_bit_for_bit_as_without_accelerate(precision: str) -> None:
    context = nullcontext if precision == "no" else lambda: torch.autocast("cpu", dtype=torch.bfloat16)
    losses, norms, model = train_without_accelerate(5, context)
    run = Run(build_accelerator(device="cpu", mixed_precision=precision), "auto").train(0, 5)
    assert (run.losses, run.norms) == (losses, norms)
    weights = full_model_state(run.model)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    whole = Run(build_accelerator(device="cpu", mixed_precision="no"), "auto").train(0, 3)
    parts = Run(build_accelerator(device="cpu", mixed_precision="no", accumulation=2), "auto").train(0, 3)
    assert close(parts.losses, whole.losses)
    assert close(parts.norms, whole.norms)


def test_load_full_state_goes_on_bit_for_bit_whatever_the_layout_of_the_saved_moments() -> None:
    accelerator = build_accelerator(device="cpu", mixed_precision="no")
    run = Run(accelerator, "auto").train(0, 3)
    saved = run.result()
    for state in saved["optimizer"]["state"].values():
        state.update({key: state[key].contiguous() for key in ("exp_avg", "exp_avg_sq")})  # as gathered from shards
    going_on = run.train(3, 5).losses[3:]
    assert Run(accelerator, "auto").load(saved).train(3, 5).losses == going_on

    unaware = Run(accelerator, "auto").load(saved)
    unaware.optimizer.load_state_dict(saved["optimizer"])
    assert unaware.train(3, 5).losses != going_on, "moments in another layout do no harm: the test shows nothing"


def test_load_full_state_leaves_what_it_was_given_alone() -> None:
    accelerator = build_accelerator(device="cpu", mixed_precision="no")
    saved = Run(accelerator, "auto").train(0, 2).result()
    weights = {name: value.clone() for name, value in saved["model"].items()}
    steps = [float(state["step"]) for state in saved["optimizer"]["state"].values()]
    Run(accelerator, "auto").load(saved).train(2, 4)
    assert distance(saved["model"], weights) == 0.0
    assert [float(state["step"]) for state in saved["optimizer"]["state"].values()] == steps


def test_full_states_are_copies_under_plain_names() -> None:
    model = network()
    compiled = torch.compile(model)
    assert isinstance(compiled, nn.Module)
    state = full_model_state(compiled)
    assert list(state) == list(model.state_dict())
    with torch.no_grad():
        model.conv_out.bias.add_(1.0)
    assert float((model.conv_out.bias.detach() - state["conv_out.bias"]).mean()) == pytest.approx(1.0)


def test_load_full_state_names_what_does_not_fit() -> None:
    model = network()
    state = full_model_state(model)
    missing = {name: value for name, value in state.items() if name != "conv_out.bias"}
    with pytest.raises(TrainingError, match=r"conv_out\.bias"):
        load_full_state(model, None, missing, None)
    with pytest.raises(TrainingError, match=r"conv_out\.bias are \(3,\), expected \(96,\)"):
        load_full_state(model, None, {**state, "conv_out.bias": torch.zeros(3)}, None)
    other = torch.optim.AdamW(model.parameters(), fused=True)
    with pytest.raises(TrainingError, match="groups of"):
        load_full_state(model, other, state, adamw(model).state_dict())


def test_build_accelerator_follows_the_latest_call() -> None:
    assert build_accelerator(device="cpu", mixed_precision="bf16").mixed_precision == "bf16"
    accelerator = build_accelerator(device="cpu", mixed_precision="no", accumulation=3)
    assert (accelerator.mixed_precision, accelerator.gradient_accumulation_steps) == ("no", 3)
    expected = "bf16" if cpu_has_fast_bf16() else "no"
    assert build_accelerator(device="cpu").mixed_precision == expected


def test_build_accelerator_keeps_to_the_recipe_whatever_the_launcher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "7")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    accelerator = build_accelerator(device="cpu", mixed_precision="no", strategy="ddp")
    assert (accelerator.mixed_precision, accelerator.gradient_accumulation_steps) == ("no", 1)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"strategy": "zero"}, ConfigError, "'zero'"),
        ({"mixed_precision": "fp8"}, ConfigError, "'fp8'"),
        ({"mixed_precision": "fp16"}, DeviceError, "fp16"),
        ({"mixed_precision": "fp16", "strategy": "fsdp"}, ConfigError, "'fsdp'"),
        ({"accumulation": 0}, ConfigError, "accumulation is 0"),
    ],
)
def test_build_accelerator_refuses_what_cannot_be(settings: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        build_accelerator(**{"device": "cpu", **settings})


def test_build_accelerator_without_accelerate_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ConfigError) as caught:
        build_accelerator(device="cpu")
    assert 'pip install "linearsr[train]"' in str(caught.value.hint)


def test_processes_that_did_not_join_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = build_accelerator(device="cpu", mixed_precision="no")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="expected 2"):
        distributed._check_joined(accelerator, torch.device("cpu"))


def test_fsdp_settings_stay_out_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(distributed.USE_FSDP, raising=False)
    with distributed._fsdp_variable(True):
        plugin = distributed._fsdp_plugin()
        assert os.environ[distributed.USE_FSDP] == "true"
    assert distributed.USE_FSDP not in os.environ
    plugin.set_mixed_precision("bf16")
    assert plugin.mixed_precision_policy.param_dtype is None, "weights and times would be cast to bfloat16"


# ---- two processes


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of one process and of both ranks, for DDP, FSDP and accelerate's FSDP."""
    folder = tmp_path_factory.mktemp("numbers")
    run = Run(build_accelerator(device="cpu", mixed_precision="no"), "auto").train(0, LOAD_AT)
    half = run.result()
    torch.save(half, folder / "single.pt")
    single = run.train(LOAD_AT, STEPS).result()
    done = launch("numbers", folder)
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    return {"half": half, "single": single, "ranks": ranks}


WAYS = pytest.mark.parametrize("way", ["ddp", "fsdp", "accelerate_fsdp"])


@pytest.mark.slow
@WAYS
def test_two_processes_train_as_one(numbers: dict[str, Any], way: str) -> None:
    single, (first, second) = numbers["single"], numbers["ranks"]
    assert close(first[way]["losses"], single["losses"])
    assert close(first[way]["norms"], single["norms"])
    for part in ("model", "ema"):
        assert distance(first[way][part], single[part]) < 1e-5
        assert distance(first[way][part], second[way][part]) == 0.0
    assert distance(moments(first[way]), moments(single)) < 1e-6
    assert close(first[f"{way}_accumulated"], single["losses"][:3])


@pytest.mark.slow
def test_fsdp_divides_the_weights_and_ddp_does_not(numbers: dict[str, Any]) -> None:
    total = sum(value.numel() for value in numbers["single"]["model"].values())
    held = {
        way: [rank[f"{way}_local_numel"] for rank in numbers["ranks"]] for way in ("ddp", "fsdp", "accelerate_fsdp")
    }
    assert held["ddp"] == [total, total]
    for way in ("fsdp", "accelerate_fsdp"):
        assert sum(held[way]) == total
        assert max(held[way]) < 0.51 * total


@pytest.mark.slow
@WAYS
def test_a_state_of_one_process_goes_on_with_two(numbers: dict[str, Any], way: str) -> None:
    loaded, single = numbers["ranks"][0][f"{way}_loaded"], numbers["single"]
    assert close(loaded["losses"], single["losses"][LOAD_AT:])
    assert distance(loaded["model"], single["model"]) < 1e-5
    assert distance(loaded["ema"], single["ema"]) < 1e-5


@pytest.mark.slow
@WAYS
def test_a_state_of_two_processes_goes_on_with_one(numbers: dict[str, Any], way: str) -> None:
    run = Run(build_accelerator(device="cpu", mixed_precision="no"), "auto")
    run.load(numbers["ranks"][0][f"{way}_half"]).train(LOAD_AT, STEPS)
    assert close(run.losses, numbers["single"]["losses"][LOAD_AT:])
    assert distance(full_model_state(run.model), numbers["single"]["model"]) < 1e-5


@pytest.mark.slow
@WAYS
def test_rank0_only_states_are_empty_elsewhere(numbers: dict[str, Any], way: str) -> None:
    first, second = (rank[f"{way}_rank0_only"] for rank in numbers["ranks"])
    assert distance(first["model"], numbers["ranks"][0][way]["model"]) == 0.0
    assert sum(value.numel() for value in (*second["model"].values(), *moments(second).values())) == 0


@pytest.mark.slow
def test_ranks_agree_on_flags_and_means_and_divide_the_rows(numbers: dict[str, Any]) -> None:
    first, second = numbers["ranks"]
    assert first["any"] == second["any"] == [False, True, True, True]
    assert first["mean"] == second["mean"] == [2.0, 0.5]
    assert (first["rows"], second["rows"]) == ([0, 1], [2, 3])
    assert first["odd"] == "batch size is 5, expected a multiple of the 2 processes"


@pytest.mark.slow
@pytest.mark.parametrize(("job", "text"), [("raise", "the disk is full"), ("stuck", "Timed out waiting 3000ms")])
def test_a_rank_that_fails_or_sleeps_ends_the_run(tmp_path: Path, job: str, text: str) -> None:
    done = launch(job, tmp_path)
    assert done.returncode != 0
    assert text in done.stderr


@pytest.mark.slow
def test_a_signal_to_the_launcher_stops_all_ranks_at_the_same_step(tmp_path: Path) -> None:
    with subprocess.Popen(torchrun("stop", tmp_path), stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not all((tmp_path / f"ready{rank}").exists() for rank in (0, 1)) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) != 0
    steps = [int((tmp_path / f"saved{rank}").read_text()) for rank in (0, 1)]
    assert steps[0] == steps[1]


JOBS = {"numbers": job_numbers, "raise": job_raise, "stuck": job_stuck, "stop": job_stop}
if __name__ == "__main__":
    JOBS[sys.argv[1]](Path(sys.argv[2]))
