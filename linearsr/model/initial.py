"""Weights of a new network: SANA's trunk as it is published, the compact stem and head so that training starts calm."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["init_weights"]


def init_weights(network: Any) -> None:  # noqa: ANN401 - naming the class would close a circle
    """Set all weights in place, from torch's global generator.

    Args:
        network: a `LinearDiT` as built; its tables are random already.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for mlp in (network.time_embed.emb.timestep_embedder, network.caption_projection):
        nn.init.normal_(mlp.linear_1.weight, std=0.02)
        nn.init.normal_(mlp.linear_2.weight, std=0.02)
    proj = network.patch_embed.proj.weight
    nn.init.xavier_uniform_(proj.data.view(proj.shape[0], -1))
    if network.config.num_tags == 0:
        nn.init.constant_(network.caption_norm.weight, 0.01)  # SANA's y_norm_scale_factor
    for conv in network.lr_stem if network.config.lr_stem else ():
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)
    if network.config.stem == "conv":
        nn.init.zeros_(network.conv_modulation.weight)  # modulation starts at identity, so t is ignored at step 0
        nn.init.zeros_(network.conv_out.weight)  # a new compact network gives x0_hat = 0, the enlarged input
        nn.init.zeros_(network.conv_out.bias)
        nn.init.zeros_(network.proj_out.weight)  # the trunk joins in as it learns, rather than drowning the stem
        nn.init.kaiming_normal_(network.conv_in.weight, nonlinearity="linear")
        for block in (*network.stem_blocks, *network.head_blocks):
            nn.init.kaiming_normal_(block.conv1.weight, nonlinearity="relu")
            nn.init.kaiming_normal_(block.conv2.weight, nonlinearity="linear")
            block.conv2.weight.data.mul_(0.2)  # ten residual sums then keep about unit variance
            nn.init.zeros_(block.conv1.bias)
            nn.init.zeros_(block.conv2.bias)
