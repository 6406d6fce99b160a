"""Two-tower encoders cut into a frozen trunk and a prompted head."""

from __future__ import annotations

from typing import Any

import torch

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.encoders.blocks import head_dtype

__all__ = ["Encoder", "Tokens", "load_encoder"]


def load_encoder(
    name: str, *, device: torch.device | str = "cpu", prompt_blocks: int | str | None = None, precision: str = "auto"
) -> Encoder:
    """``embedded``, or a CLIP or SigLIP by hub name or local folder.

    Args:
        name: ``"embedded"``, a hub name such as ``"openai/clip-vit-base-patch32"``, or a folder.
        device: where the frozen weights live.
        prompt_blocks: number of last blocks that take prompts (``"all"``: every block; None: the encoder's default).
            The embedded head always prompts its own two blocks.
        precision: of the head's matrix products: fp32, bf16, or auto: bf16 where the hardware multiplies it.

    Raises:
        EncoderError: one line that says what is missing.
    """
    options: dict[str, Any] = {}
    if name == "embedded":
        from mmcl_fast.encoders.embedded import EmbeddedEncoder as kind
    else:
        from mmcl_fast.encoders.clip import ClipEncoder as kind

        if prompt_blocks is not None:
            options["prompt_blocks"] = prompt_blocks
    encoder = kind(name, device=device, **options)
    encoder.set_precision(head_dtype(precision, encoder.device))
    return encoder
