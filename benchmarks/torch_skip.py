"""The skip network in plain PyTorch, for comparison; tested against the 2018 network.

It is written as a PyTorch user would write it from the paper, with `nn.Sequential`, layers for
reflection padding, batch normalization and concatenation. A scale has one skip connection or none.
PyTorch is not a dependency of the package; this file needs `pip install torch`.
"""

from collections.abc import Callable

import torch
from torch import nn

from dip_jax.config import NetConfig

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "swish": nn.SiLU,
    "elu": nn.ELU,
    "relu": nn.ReLU,
    "none": nn.Identity,
}


def _conv(config: NetConfig, inputs: int, outputs: int, side: int, mode: str = "none") -> list:
    stride = 2 if mode == "stride" else 1
    layers: list[nn.Module] = []
    padding = side // 2
    if config.padding == "reflect":
        layers.append(nn.ReflectionPad2d(padding))
        padding = 0
    layers.append(nn.Conv2d(inputs, outputs, side, stride, padding, bias=config.bias))
    if mode in ("avg", "max"):
        layers.append(nn.AvgPool2d(2) if mode == "avg" else nn.MaxPool2d(2))
    return layers


def _block(config: NetConfig, inputs: int, outputs: int, side: int, mode: str = "none") -> list:
    return [
        *_conv(config, inputs, outputs, side, mode),
        nn.BatchNorm2d(outputs),
        ACTIVATIONS[config.activation](),
    ]


class Scale(nn.Module):
    """One scale of the network, which contains the coarser ones."""

    def __init__(self, config: NetConfig, scale: int, inputs: int):
        """Builds this scale and the coarser ones, for `inputs` input channels."""
        super().__init__()
        c, i = config, scale
        down, up, skip = c.channels_down[i], c.channels_up[i], c.channels_skip[i]
        is_last = i + 1 == c.num_scales
        self.skip = nn.Sequential(*_block(c, inputs, skip, c.kernel_skip)) if skip else None
        coarser = [] if is_last else [Scale(c, i + 1, down)]
        options = {"align_corners": False} if c.per_scale("upsample")[i] == "bilinear" else {}
        self.deeper = nn.Sequential(
            *_block(c, inputs, down, c.per_scale("kernel_down")[i], c.per_scale("downsample")[i]),
            *_block(c, down, down, c.per_scale("kernel_down")[i]),
            *coarser,
            nn.Upsample(scale_factor=2, mode=c.per_scale("upsample")[i], **options),
        )
        merged = skip + (down if is_last else c.channels_up[i + 1])
        self.merge = nn.Sequential(
            nn.BatchNorm2d(merged),
            *_block(c, merged, up, c.per_scale("kernel_up")[i]),
            *(_block(c, up, up, 1) if c.conv1x1_up else []),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `[1, C, H, W]` to the same height and width, or without skips to up to 2^n more."""
        deeper = self.deeper(x)
        if self.skip is None:
            return self.merge(deeper)
        skip = self.skip(x)
        height = min(skip.shape[2], deeper.shape[2])
        width = min(skip.shape[3], deeper.shape[3])

        def crop(v: torch.Tensor) -> torch.Tensor:
            top, left = (v.shape[2] - height) // 2, (v.shape[3] - width) // 2
            return v[:, :, top : top + height, left : left + width]

        return self.merge(torch.cat([crop(skip), crop(deeper)], dim=1))


def build(config: NetConfig, num_channels: int) -> nn.Module:
    """Builds the whole network, which ends in a 1x1 convolution and a sigmoid."""
    head = _conv(config, config.channels_up[0], num_channels, 1)
    return nn.Sequential(
        Scale(config, 0, config.input_depth), *head, *([nn.Sigmoid()] if config.sigmoid else [])
    )


def set_precision(precision: str) -> None:
    """Sets PyTorch's switches for TF32. For bfloat16, use `torch.autocast` in addition."""
    torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
    torch.backends.cudnn.allow_tf32 = precision != "float32"
