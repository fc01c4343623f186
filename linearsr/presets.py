"""Paper-scale presets: every setting of a network that starts from public SANA weights, and where each comes from.

Where LinearSR's paper (arXiv:2510.08771) is silent, SANA's published value holds: the network, the latent, the text
encoder and the sampler are SANA's, what is added is the stem on low-resolution pixels and the experts.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path

from linearsr.config import AutoencoderConfig, ExpertsConfig, FlowConfig, ModelConfig, SamplingConfig, TagsConfig
from linearsr.errors import ConfigError
from linearsr.flow import log_snr
from linearsr.model.experts import PAPER_BOUNDARIES
from linearsr.model.sana_config import plain_sana
from linearsr.schedules import dpm_flow_grid

__all__ = ["LR_STEM", "PRESETS", "PUBLISHED_STEPS", "Preset", "get_preset", "preset_of_shape", "refuse_preset"]

LR_STEM = (64, 128, 32)
"""Widths of the stem. Three strided convolutions with SiLU are the paper's; their widths it does not state, and these
are this project's choice. At x4 they take low-resolution pixels to exactly the grid of a latent 32 times smaller."""
PUBLISHED_STEPS = (1, 2, 3, 4, 8, 20)
"""Numbers of steps whose time grid the config states."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """All of a paper-scale model but its weights."""

    name: str
    model: ModelConfig
    """With the stem on low-resolution pixels; `plain_sana` gives the public network."""
    parameters: int
    """Of the public network, without the stem."""
    repository: str
    """Hub id of the public weights in diffusers' format."""
    licence: str
    """Of the public weights, as their model card names it; what is trained from them is bound by it."""
    licence_note: str
    autoencoder: AutoencoderConfig
    flow: FlowConfig
    sampling: SamplingConfig
    """For the four experts; `for_experts` gives it for one network."""
    tags: TagsConfig
    boundaries: tuple[float, ...] = PAPER_BOUNDARIES
    """Rising times between the experts."""

    def for_experts(self, count: int) -> tuple[ExpertsConfig, SamplingConfig]:
        """Experts and sampling for one network, or for four experts.

        Until they are trained apart, four experts are one file, so that it is neither stored nor fetched four times.

        Args:
            count: 1, or as many as there are intervals.

        Raises:
            ConfigError: another number.
        """
        if count == 1:
            experts = ExpertsConfig(boundaries_log_snr=(), files=("expert-0.safetensors",))
            return experts, replace(self.sampling, expert_cfg_scales=())
        if count != len(self.boundaries) + 1:
            raise ConfigError(f"experts is {count}, expected 1 or {len(self.boundaries) + 1}", hint="use 1 to pretrain")
        cuts = tuple(float(log_snr(t)) for t in self.boundaries)
        return ExpertsConfig(boundaries_log_snr=cuts, files=("base.safetensors",) * count), self.sampling


def _sana(width: int, depth: int, cross_attention_head_dim: int) -> ModelConfig:
    # Sizes and epsilons: NVlabs/Sana configs/sana_config/1024ms/*.yaml and diffusers' conversion script, which agree.
    return ModelConfig(
        in_channels=32,  # channels of DC-AE f32c32
        cond_channels=LR_STEM[-1],  # concatenated to the latent, arXiv:2510.08771
        width=width,
        depth=depth,
        head_dim=32,  # linear_head_dim
        cross_attention_head_dim=cross_attention_head_dim,
        caption_channels=2304,  # hidden size of Gemma-2-2b
        mlp_ratio=2.5,
        patch_size=1,
        stem="patch",
        stem_width=0,
        stem_depth=0,
        head_depth=0,
        long_skip=False,
        qk_norm=False,  # None in SANA 1.0; true for 1.5, which converts too
        state_gate=False,
        scale_embedding=False,  # one scale, x4; others are resampled from it
        num_tags=0,  # tags come as text embeddings
        norm_eps=1e-6,
        attention_eps=1e-15,  # diffusers; NVlabs has 1e-8, which differs for queries that are next to zero only
        lr_stem=LR_STEM,
    )


_AUTOENCODER = AutoencoderConfig(
    kind="dcae",
    factor=32,
    source="mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers",  # that of diffusers' conversion script; 1.0 is the same class
    scaling_factor=0.41407,  # its config.json
)
_FLOW = FlowConfig(
    prediction="v",  # noise minus data: SANA predict_flow_v, and LinearSR's conditional flow matching
    shift=3.0,  # of the public scheduler; NVlabs trained the 0.6B with 4.0, the 1.6B with 3.0
    grid="dpm",
)
_SAMPLING = SamplingConfig(
    sampler="dpmpp_2m",  # SANA's Flow-DPM-Solver, arXiv:2410.10629
    steps=20,  # default of diffusers' SanaPipeline; agrees with the paper's 0.830 s at 0.036 s an evaluation
    t_grids={str(steps): tuple(dpm_flow_grid(steps, _FLOW.shift).tolist()) for steps in PUBLISHED_STEPS},
    tile=1024,  # the side SANA was trained at
    tile_overlap=256,  # eight latent pixels; the weight of a tile has fallen to 0.06 at its inner end
    color_fix="wavelet",  # StableSR's advice for large pictures; LinearSR states none
    cfg_scale=4.5,  # default of diffusers' SanaPipeline; LinearSR states none
    expert_cfg_scales=(1.0, 4.5, 4.5, 4.5),  # own choice: the last expert has little left to guide
)
_TAGS = TagsConfig(
    kind="text",
    encoder="Efficient-Large-Model/gemma-2-2b-it",  # text encoder of diffusers' conversion script
    max_tokens=300,  # model_max_length of SANA's configs
)
_LICENCE = "NSCL v2-custom"
_LICENCE_NOTE = (
    "The public SANA weights are NVIDIA's, under NSCL v2-custom as their model card says, and what is trained from "
    "them stays bound by it. The text encoder is under the Gemma Terms of Use. Read both for what they allow."
)


def _preset(name: str, model: ModelConfig, parameters: int, repository: str) -> Preset:
    return Preset(
        name=name,
        model=model,
        parameters=parameters,
        repository=repository,
        licence=_LICENCE,
        licence_note=_LICENCE_NOTE,
        autoencoder=_AUTOENCODER,
        flow=_FLOW,
        sampling=_SAMPLING,
        tags=_TAGS,
    )


# Cross-attention heads are 16 and 20 in number. Parameters: counted from diffusers' class.
PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        _preset("sana-0.6b", _sana(1152, 28, 72), 591_747_872, "Efficient-Large-Model/Sana_600M_1024px_diffusers"),
        _preset("sana-1.6b", _sana(2240, 20, 112), 1_604_462_752, "Efficient-Large-Model/Sana_1600M_1024px_diffusers"),
    )
}
"""By name."""


def get_preset(name: str) -> Preset:
    """The preset of a name.

    Raises:
        ConfigError: there is none; the closest name is suggested.
    """
    if name in PRESETS:
        return PRESETS[name]
    close = difflib.get_close_matches(name.lower(), PRESETS, n=1)
    raise ConfigError(
        f"preset is {name!r}, expected {' or '.join(map(repr, PRESETS))}",
        hint=f"did you mean {close[0]!r}?" if close else f"use {next(iter(PRESETS))!r}, the smallest",
    )


def preset_of_shape(model: ModelConfig) -> Preset | None:
    """The preset whose network has this shape, apart from stem and q/k norm; None if there is none."""
    for preset in PRESETS.values():
        if plain_sana(replace(preset.model, qk_norm=model.qk_norm)) == plain_sana(model):
            return preset
    return None


def refuse_preset(model: str) -> None:
    """Say what to do with the name of a preset, which is settings without weights.

    Raises:
        ConfigError: it is one, and no folder of that name is there.
    """
    if model in PRESETS and not Path(model).exists():
        source = PRESETS[model].repository
        raise ConfigError(
            f"{model!r} is a preset, which has no weights of its own, expected a folder or a Hub id",
            hint=f"`linearsr models convert --from-sana {source} --preset {model} -o FOLDER` makes a model of it",
        )
