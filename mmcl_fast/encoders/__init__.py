"""Two-tower encoders cut into a frozen trunk and a prompted head."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.encoders.prompted_blocks import head_dtype
from mmcl_fast.errors import ConfigError

ENCODERS: dict[str, Callable[..., Encoder]] = {}

__all__ = ["Encoder", "Tokens", "load_encoder", "register"]


def register(name: str, make: Callable[..., Encoder]) -> None:
    """Make an encoder of one's own known by ``name``, for this process.

    Args:
        name: what configs and run folders call it; no slash in it, so that it is neither a hub name nor a folder.
        make: called as ``make(name, device=...)``; an ``Encoder``'s class, or a function that gives one. Trunk tokens
            are kept under its ``fingerprint``, and a run is refused where that has changed.

    Raises:
        ConfigError: a name that can't be one or is taken.
    """
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith(".") or name == "embedded":
        raise ConfigError(f"encoder {name!r}: give another name, of letters, digits, _, - and .")
    ENCODERS[name] = make


def load_encoder(
    name: str, *, device: torch.device | str = "cpu", prompt_blocks: int | str | None = None, precision: str = "auto"
) -> Encoder:
    """``embedded``, one that was registered, or a CLIP or SigLIP by hub name or local folder.

    Args:
        name: ``"embedded"``, a registered name, a hub name such as ``"openai/clip-vit-base-patch32"``, or a folder.
        device: where the frozen weights live.
        prompt_blocks: number of last blocks that take prompts (``"all"``: every block; None: the encoder's default).
            The embedded head always prompts its own two blocks.
        precision: of the head's matrix products: fp32, bf16, or auto: bf16 where the hardware multiplies it.

    Raises:
        EncoderError: one line that says what is missing.
    """
    options: dict[str, Any] = {}
    kind: Callable[..., Encoder]
    if name in ENCODERS:
        kind = ENCODERS[name]
    elif name == "embedded":
        from mmcl_fast.encoders.embedded import EmbeddedEncoder

        kind = EmbeddedEncoder
    else:
        from mmcl_fast.encoders.clip import ClipEncoder

        kind = ClipEncoder
        if prompt_blocks is not None:
            options["prompt_blocks"] = prompt_blocks
    encoder = kind(name, device=device, **options)
    encoder.set_precision(head_dtype(precision, encoder.device))
    return encoder
