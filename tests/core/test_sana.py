"""SANA's weights under our names: parity with diffusers on random weights, exact round trips, strict refusals.

Distances are max|a - b| / max|b| in float32. The random networks are `stand_ins.sana`'s, none of whose tensors is
constant.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from linearsr.config import FlowConfig, ModelConfig
from linearsr.denoiser import velocity_fn
from linearsr.errors import ConfigError, WeightsError
from linearsr.model.conditioning import Conditioning
from linearsr.model.experts import ExpertBank
from linearsr.model.sana import (
    check_shapes,
    detect_layout,
    from_diffusers,
    from_nvlabs,
    to_diffusers,
    to_nvlabs,
    widen_patch_embed,
)
from linearsr.model.sana_config import model_config_from_diffusers, plain_sana
from linearsr.model.transformer import LinearDiT
from linearsr.samplers import sample_dpmpp_2m, sample_euler
from linearsr.schedules import dpm_flow_grid, shifted_grid
from linearsr_train.stand_ins.sana import CAPTION_CHANNELS, write_sana

diffusers = pytest.importorskip("diffusers")
STYLES = ("1.0", "1.5")
SHAPES = ((8, 8), (6, 10), (7, 5))
FLOW = FlowConfig(prediction="v", shift=3.0, grid="dpm")
STEM = {"lr_stem": (8, 4), "cond_channels": 4}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One set of weights in both implementations."""

    config_json: dict[str, Any]
    theirs: Any
    model: ModelConfig
    ours: LinearDiT


def build(model: ModelConfig, state: dict[str, Tensor]) -> LinearDiT:
    network = LinearDiT(model).eval().requires_grad_(False)
    network.load_state_dict(state, strict=True)
    return network


@pytest.fixture(scope="module", params=STYLES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = write_sana(tmp_path_factory.mktemp("sana"), style=request.param, seed=3) / "transformer"
    theirs = diffusers.SanaTransformer2DModel.from_pretrained(folder).eval().requires_grad_(False)
    config_json = json.loads((folder / "config.json").read_text())
    model = model_config_from_diffusers(config_json)
    return Pair(
        config_json=config_json, theirs=theirs, model=model, ours=build(model, from_diffusers(theirs.state_dict()))
    )


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def inputs(shape: tuple[int, int], seed: int = 1) -> tuple[Tensor, Tensor, Conditioning]:
    """State, times and captions of different lengths for a batch of three; nothing as condition."""
    generator = torch.Generator().manual_seed(seed)
    x_t = torch.randn(3, 32, *shape, generator=generator)
    cond = Conditioning(
        lr=x_t[:, :0],
        tags=torch.randn(3, 9, CAPTION_CHANNELS, generator=generator),
        tag_mask=torch.arange(9) < torch.tensor([9, 4, 1])[:, None],
        null_tags=torch.randn(3, 2, CAPTION_CHANNELS, generator=generator),
        null_mask=torch.tensor([[True, False]] * 3),
    )
    return x_t, torch.tensor([0.9997, 0.61, 0.02]), cond


def run_theirs(pair: Pair, x_t: Tensor, timestep: Tensor, cond: Conditioning) -> Tensor:
    """Diffusers' network; its time runs from 0 to 1000."""
    mask = cond.tag_mask.long()
    return pair.theirs(x_t, cond.tags, timestep.expand(x_t.shape[0]), encoder_attention_mask=mask).sample


# ---- one evaluation


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_transformer_equals_diffusers(pair: Pair, shape: tuple[int, int]) -> None:
    x_t, t, cond = inputs(shape)

    expected = run_theirs(pair, x_t, 1000 * t, cond)

    assert distance(pair.ours(x_t, t, cond), expected) <= 1e-5
    unmasked = replace(cond, tag_mask=torch.ones_like(cond.tag_mask))
    assert distance(pair.ours(x_t, t, unmasked), expected) > 1e-3


def test_parity_depends_on_every_tensor(pair: Pair) -> None:
    x_t, t, cond = inputs((4, 5))
    expected = run_theirs(pair, x_t, 1000 * t, cond)
    state = pair.ours.state_dict()

    blind = []
    for name, value in state.items():
        changed = build(pair.model, {**state, name: value.flip(0)})
        if distance(changed(x_t, t, cond), expected) <= 1e-5:
            blind.append(name)

    # Softmax does not see what is added to every key alike.
    assert blind == ([] if pair.model.qk_norm else [f"transformer_blocks.{i}.attn2.to_k.bias" for i in range(2)])


# ---- twenty steps


def dpm_scheduler(steps: int) -> Any:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True,
        flow_shift=3.0,
        prediction_type="flow_prediction",
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        lower_order_final=True,
    )
    scheduler.set_timesteps(steps)
    return scheduler


def euler_scheduler(steps: int) -> Any:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=[1.0 - index / steps for index in range(steps)])
    return scheduler


def sample_theirs(pair: Pair, scheduler: Any, cfg_scale: float, *, whole: bool = False) -> Tensor:
    """Diffusers' network under diffusers' scheduler; `whole` feeds the timesteps it states, else 1000 sigma."""
    x, _, cond = inputs((4, 5))
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        time = timestep.float() if whole else 1000 * sigma.float()
        v = run_theirs(pair, x, time, cond)
        if cfg_scale != 1.0:
            null = run_theirs(pair, x, time, cond.without_tags())
            v = null + cfg_scale * (v - null)
        x = scheduler.step(v, timestep, x).prev_sample
    return x


def our_velocity(pair: Pair, cfg_scale: float) -> Callable[[Tensor, float], Tensor]:
    return velocity_fn(ExpertBank((), lambda index: pair.ours), FLOW, inputs((4, 5))[2], cfg_scale=cfg_scale)


@pytest.mark.parametrize(("steps", "cfg_scale"), [(1, 1.0), (4, 4.5), (20, 1.0), (20, 4.5)])
def test_dpmpp_trajectory_equals_diffusers(pair: Pair, steps: int, cfg_scale: float) -> None:
    expected = sample_theirs(pair, dpm_scheduler(steps), cfg_scale)

    out = sample_dpmpp_2m(our_velocity(pair, cfg_scale), inputs((4, 5))[0], dpm_flow_grid(steps, 3.0))

    assert distance(out, expected) <= 1e-4


@pytest.mark.parametrize("cfg_scale", [1.0, 4.5])
def test_euler_trajectory_equals_diffusers(pair: Pair, cfg_scale: float) -> None:
    expected = sample_theirs(pair, euler_scheduler(20), cfg_scale)

    out = sample_euler(our_velocity(pair, cfg_scale), inputs((4, 5))[0], shifted_grid(20, 3.0))

    assert distance(out, expected) <= 1e-4


def test_whole_timesteps_of_diffusers_are_a_known_difference(pair: Pair) -> None:
    """Its DPM-Solver tells the network the time cut to a whole number of thousandths; ours is told the time itself."""
    scheduler = dpm_scheduler(20)

    assert scheduler.timesteps.tolist() == [math.floor(1000 * t) for t in dpm_flow_grid(20, 3.0)[:-1].tolist()]
    moved = distance(sample_theirs(pair, scheduler, 1.0, whole=True), sample_theirs(pair, dpm_scheduler(20), 1.0))
    assert 1e-3 < moved < 0.05  # of random weights, which heed the highest frequencies of the time as much as any


# ---- names


NVLABS_NAMES = """
attention_y_norm.weight final_layer.linear.bias final_layer.linear.weight final_layer.scale_shift_table
t_block.1.bias t_block.1.weight t_embedder.mlp.0.bias t_embedder.mlp.0.weight t_embedder.mlp.2.bias
t_embedder.mlp.2.weight x_embedder.proj.bias x_embedder.proj.weight y_embedder.y_proj.fc1.bias
y_embedder.y_proj.fc1.weight y_embedder.y_proj.fc2.bias y_embedder.y_proj.fc2.weight
"""
NVLABS_BLOCK_NAMES = """
attn.proj.bias attn.proj.weight attn.qkv.weight cross_attn.kv_linear.bias cross_attn.kv_linear.weight
cross_attn.proj.bias cross_attn.proj.weight cross_attn.q_linear.bias cross_attn.q_linear.weight
mlp.depth_conv.conv.bias mlp.depth_conv.conv.weight mlp.inverted_conv.conv.bias mlp.inverted_conv.conv.weight
mlp.point_conv.conv.weight scale_shift_table
"""
NVLABS_NORM_NAMES = "attn.k_norm.weight attn.q_norm.weight cross_attn.k_norm.weight cross_attn.q_norm.weight"


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    same = a.keys() == b.keys() and all(a[name].dtype == b[name].dtype for name in a)
    return same and all(torch.equal(a[name], b[name]) for name in a)


def test_nvlabs_names_are_those_of_the_published_files(pair: Pair) -> None:
    block = NVLABS_BLOCK_NAMES.split() + (NVLABS_NORM_NAMES.split() if pair.model.qk_norm else [])
    expected = NVLABS_NAMES.split() + [f"blocks.{index}.{name}" for index in range(2) for name in block]

    state = to_nvlabs(pair.ours.state_dict())

    assert sorted(state) == sorted(expected)
    ours, joined = pair.ours.state_dict(), state["blocks.1.attn.qkv.weight"]
    for part, name in zip(joined.chunk(3), ("to_q", "to_k", "to_v"), strict=True):
        assert torch.equal(part, ours[f"transformer_blocks.1.attn1.{name}.weight"])
    for part, name in zip(state["blocks.0.cross_attn.kv_linear.bias"].chunk(2), ("to_k", "to_v"), strict=True):
        assert torch.equal(part, ours[f"transformer_blocks.0.attn2.{name}.bias"])
    assert torch.equal(state["t_block.1.weight"], ours["time_embed.linear.weight"])
    assert torch.equal(state["final_layer.scale_shift_table"], ours["scale_shift_table"])


def test_round_trips_of_a_diffusers_state_are_bit_exact(pair: Pair) -> None:
    theirs = pair.theirs.state_dict()

    ours = from_diffusers(theirs)
    nvlabs = to_nvlabs(ours)

    assert equal(to_diffusers(ours), theirs)
    assert equal(from_nvlabs(nvlabs), ours)
    assert equal(to_nvlabs(from_nvlabs(nvlabs)), nvlabs)
    assert list(from_nvlabs(nvlabs)) == list(ours)


@settings(max_examples=10, deadline=None)
@given(
    depth=st.integers(1, 4),
    width=st.integers(1, 5),
    qk_norm=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_round_trip_is_bit_exact_for_any_depth_and_dtype(
    depth: int, width: int, qk_norm: bool, dtype: torch.dtype
) -> None:
    model = plain_sana(model_config_from_diffusers(public_json()))
    model = replace(
        model, depth=depth, width=width, head_dim=1, cross_attention_head_dim=1, caption_channels=3, qk_norm=qk_norm
    )
    with torch.device("meta"):
        names = LinearDiT(model).state_dict()
    state = {name: torch.randn(value.shape).to(dtype) for name, value in names.items()}

    back = from_nvlabs(to_nvlabs(from_diffusers(to_diffusers(state))))

    assert equal(back, state)


def test_from_nvlabs_drops_what_sampling_does_not_use(pair: Pair) -> None:
    state = to_nvlabs(pair.ours.state_dict())
    unused = {
        "y_embedder.y_embedding": torch.randn(300, CAPTION_CHANNELS),
        "pos_embed": torch.randn(1, 256, 64),
        "logvar_linear.weight": torch.randn(1, 256),
        "logvar_linear.bias": torch.randn(1),
    }

    assert equal(from_nvlabs({**state, **unused}), dict(pair.ours.state_dict()))
    assert equal(from_nvlabs({**state, "pos_embed": torch.zeros(1, 4096, 64)}), dict(pair.ours.state_dict()))


def test_from_nvlabs_refuses_a_positional_embedding(pair: Pair) -> None:
    state = {**to_nvlabs(pair.ours.state_dict()), "pos_embed": torch.ones(1, 4096, 64)}

    with pytest.raises(WeightsError, match="positional embedding for 2048 px") as caught:
        from_nvlabs(state)

    assert caught.value.hint is not None and "1024 px" in caught.value.hint


def test_from_nvlabs_refuses_a_joined_tensor_that_does_not_split(pair: Pair) -> None:
    state = to_nvlabs(pair.ours.state_dict())
    state["blocks.0.attn.qkv.weight"] = state["blocks.0.attn.qkv.weight"][:-1]

    with pytest.raises(WeightsError, match=r"attn\.qkv\.weight has 191 rows, expected a multiple of 3"):
        from_nvlabs(state)


@pytest.mark.parametrize("convert", [from_diffusers, to_diffusers, to_nvlabs])
def test_missing_and_unknown_tensors_are_listed(pair: Pair, convert: Callable) -> None:
    state = dict(pair.ours.state_dict())
    del state["transformer_blocks.1.ff.conv_depth.bias"], state["caption_norm.weight"]
    state["transformer_blocks.0.norm2.weight"] = torch.ones(64)

    with pytest.raises(WeightsError) as caught:
        convert(state)

    for name in ("missing caption_norm.weight, transformer_blocks.1.ff.conv_depth.bias", "extra transformer_blocks.0"):
        assert name in caught.value.message
    assert caught.value.hint


def test_a_gap_between_blocks_is_missing_tensors(pair: Pair) -> None:
    state = {name.replace("blocks.1.", "blocks.999999."): value for name, value in pair.ours.state_dict().items()}

    with pytest.raises(WeightsError, match=r"missing transformer_blocks\.1\..*extra transformer_blocks\.999999\."):
        from_diffusers(state)


def test_detect_layout_tells_the_namings_apart(pair: Pair) -> None:
    state = pair.ours.state_dict()

    assert detect_layout(state.keys()) == "diffusers"
    assert detect_layout(to_nvlabs(state).keys()) == "nvlabs"
    with pytest.raises(WeightsError, match="SANA-Sprint"):
        detect_layout([*to_nvlabs(state), "cfg_embedder.mlp.0.weight"])
    with pytest.raises(WeightsError, match=r"tensors are named conv_in\.weight"):
        detect_layout(["conv_in.weight"])


def test_check_shapes_names_what_differs(pair: Pair) -> None:
    state = dict(pair.ours.state_dict())
    check_shapes(state, pair.model)

    with pytest.raises(WeightsError, match=r"proj_out\.weight is \(64, 32\), expected \(32, 64\)"):
        check_shapes({**state, "proj_out.weight": state["proj_out.weight"].T}, pair.model)
    with pytest.raises(WeightsError, match=r"missing transformer_blocks\.2\."):
        check_shapes(state, replace(pair.model, depth=3))


# ---- the stem


def widened(pair: Pair, seed: int = 0) -> tuple[ModelConfig, dict[str, Tensor]]:
    model = replace(pair.model, **STEM)
    return model, widen_patch_embed(pair.ours.state_dict(), model, seed=seed)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_untrained_stem_changes_nothing(pair: Pair, shape: tuple[int, int]) -> None:
    x_t, t, cond = inputs(shape)
    model, state = widened(pair)
    network = build(model, state)

    black, white, noise = (
        network(x_t, t, replace(cond, lr=pixels(model.lr_shape(tuple(x_t.shape)))))
        for pixels in (torch.zeros, torch.ones, torch.randn)
    )

    assert torch.equal(black, white) and torch.equal(black, noise)
    assert distance(noise, pair.ours(x_t, t, cond)) <= 1e-6
    assert distance(noise, run_theirs(pair, x_t, 1000 * t, cond)) <= 1e-5


def test_stem_is_heard_as_soon_as_its_columns_are_not_zero(pair: Pair) -> None:
    x_t, t, cond = inputs((4, 4))
    model, state = widened(pair)
    lr = torch.randn(model.lr_shape(tuple(x_t.shape)))
    network = LinearDiT(model)
    network.load_state_dict(state, strict=True)
    weight = network.patch_embed.proj.weight

    network(x_t, t, replace(cond, lr=lr)).square().sum().backward()
    assert weight.grad is not None and bool((weight.grad[:, 32:].abs().amax((1, 2, 3)) > 0).all())
    with torch.no_grad():
        weight[:, 32:] -= 1e-3 * weight.grad[:, 32:]
        moved = network(x_t, t, replace(cond, lr=lr)), network(x_t, t, replace(cond, lr=lr.flip(3)))
    assert distance(*moved) > 1e-3


def test_widen_adds_zero_columns_and_a_seeded_stem(pair: Pair) -> None:
    before = pair.ours.state_dict()
    model, state = widened(pair, seed=5)

    assert {name: state[name].shape for name in state.keys() - before.keys()} == {
        "lr_stem.0.weight": (8, 3, 3, 3),
        "lr_stem.0.bias": (8,),
        "lr_stem.1.weight": (4, 8, 3, 3),
        "lr_stem.1.bias": (4,),
    }
    columns = state["patch_embed.proj.weight"]
    assert torch.equal(columns[:, :32], before["patch_embed.proj.weight"]) and not columns[:, 32:].any()
    assert all(torch.equal(state[name], before[name]) for name in before if name != "patch_embed.proj.weight")
    again, other = widened(pair, seed=5)[1], widened(pair, seed=6)[1]
    assert equal(again, state) and not torch.equal(other["lr_stem.1.weight"], state["lr_stem.1.weight"])
    half = widen_patch_embed({name: value.half() for name, value in before.items()}, model)
    assert {value.dtype for value in half.values()} == {torch.float16}


def test_stem_keeps_the_variance_of_its_input(pair: Pair) -> None:
    model = replace(pair.model, lr_stem=(64, 128, 32), cond_channels=32)
    network = build(model, widen_patch_embed(pair.ours.state_dict(), model))
    smooth = torch.nn.functional.interpolate(torch.rand(4, 3, 8, 8) * 2 - 1, scale_factor=16, mode="bilinear")

    spread = float(network._condition(smooth).std((0, 2, 3)).mean())

    assert 0.05 < spread < 0.5


def test_widen_refuses_what_is_widened_already_or_has_no_stem(pair: Pair) -> None:
    model, state = widened(pair)

    with pytest.raises(WeightsError, match="expected 32 columns and no stem yet"):
        widen_patch_embed(state, model)
    with pytest.raises(ConfigError, match="lr_stem is empty"):
        widen_patch_embed(pair.ours.state_dict(), pair.model)
    with pytest.raises(WeightsError, match=r"extra lr_stem\.0\.bias"):
        to_diffusers(state)


# ---- the config


def public_json(**changes: Any) -> dict[str, Any]:
    """Config of the public 0.6 B model, as its folder has it."""
    return {
        "_class_name": "SanaTransformer2DModel",
        "_diffusers_version": "0.32.0.dev0",
        "attention_bias": False,
        "attention_head_dim": 32,
        "caption_channels": 2304,
        "cross_attention_dim": 1152,
        "cross_attention_head_dim": 72,
        "dropout": 0.0,
        "in_channels": 32,
        "interpolation_scale": None,
        "mlp_ratio": 2.5,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-06,
        "num_attention_heads": 36,
        "num_cross_attention_heads": 16,
        "num_layers": 28,
        "out_channels": 32,
        "patch_size": 1,
        "sample_size": 32,
        **changes,
    }


def test_model_config_is_read_from_diffusers() -> None:
    model = model_config_from_diffusers(public_json(num_layers=3, mlp_ratio=3, caption_channels=7))

    assert (model.width, model.depth, model.head_dim, model.cross_attention_head_dim) == (1152, 3, 32, 72)
    assert (model.caption_channels, model.mlp_ratio, model.in_channels, model.cond_channels) == (7, 3.0, 32, 0)
    assert (model.norm_eps, model.attention_eps, model.qk_norm, model.num_tags) == (1e-6, 1e-15, False, 0)
    assert model_config_from_diffusers(public_json(qk_norm="rms_norm_across_heads")).qk_norm
    assert model_config_from_diffusers(public_json(out_channels=None)).in_channels == 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "SanaControlNetModel"}, "describes 'SanaControlNetModel'"),
        ({"interpolation_scale": 1.0}, "interpolation_scale is 1.0, expected None: no positional embedding"),
        ({"guidance_embeds": True}, "guidance_embeds is True, expected False: .*Sprint"),
        ({"patch_size": 2}, "patch_size is 2, expected 1"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"norm_elementwise_affine": True}, "norm_elementwise_affine is True"),
        ({"norm_eps": 1e-5}, "norm_eps is 1e-05, expected 1e-06"),
        ({"timestep_scale": 0.001}, "timestep_scale is 0.001"),
        ({"qk_norm": "layer_norm"}, "qk_norm is 'layer_norm'"),
        ({"num_layers": "28"}, "num_layers is '28'"),
        ({"num_layers": None}, "num_layers is None"),
        ({"in_channels": True}, "in_channels is True"),
        ({"mlp_ratio": None}, "mlp_ratio is None"),
        ({"cross_attention_dim": 2240}, "widths are 1152 for self-attention, 1152 and 2240"),
        ({"out_channels": 64}, "channels 32 in and 64 out"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_model_config_refuses_what_is_not_run_here(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        model_config_from_diffusers(public_json(**changes))

    assert caught.value.hint is not None and "Sana_600M_1024px_diffusers" in caught.value.hint


# ---- the stand-in


def test_stand_in_is_the_same_for_the_same_seed(tmp_path) -> None:
    state = torch.get_rng_state()
    files = [
        (write_sana(tmp_path / f"{index}", seed=seed) / "transformer/diffusion_pytorch_model.safetensors").read_bytes()
        for index, seed in enumerate((2, 2, 3))
    ]

    assert files[0] == files[1] != files[2]
    assert torch.equal(torch.get_rng_state(), state)
