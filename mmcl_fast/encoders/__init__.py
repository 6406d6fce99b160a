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
    """Register an encoder of your own under ``name``, for this process.

    Args:
        name: the name in configs and run folders. Without a slash, so that it is neither a hub name nor a folder.
        make: an ``Encoder`` class or a function, called as ``make(name, device=...)``. The encoder's ``fingerprint``
            is part of the feature cache's key. A run that was learned with another fingerprint is refused.

    Raises:
        ConfigError: the name has signs other than letters, digits, ``_``, ``-`` and ``.``, begins with a dot, or is
            ``embedded``.
    """
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith(".") or name == "embedded":
        raise ConfigError(f"encoder {name!r}: give another name, of letters, digits, _, - and .")
    ENCODERS[name] = make


def load_encoder(
    name: str, *, device: torch.device | str = "cpu", prompt_blocks: int | str | None = None, precision: str = "auto"
) -> Encoder:
    """Load ``embedded``, a registered encoder, or a CLIP or SigLIP by hub name or local folder.

    Args:
        name: ``"embedded"``, a registered name, a hub name such as ``"openai/clip-vit-base-patch32"``, or a folder.
        device: the device of the frozen weights.
        prompt_blocks: number of last blocks that take prompts; ``"all"``: every block; None: the encoder's default.
            Only for CLIP and SigLIP: the head of ``embedded`` has two blocks, and both take prompts.
        precision: of the head's matrix products: ``fp32``, ``bf16`` or ``auto``; see ``head_dtype``.

    Raises:
        EncoderError: one line that says what is missing.
        ConfigError: ``precision`` has another value.
    """
    options: dict[str, Any] = {}
    make: Callable[..., Encoder]
    if name in ENCODERS:
        make = ENCODERS[name]
    elif name == "embedded":
        from mmcl_fast.encoders.embedded import EmbeddedEncoder

        make = EmbeddedEncoder
    else:
        from mmcl_fast.encoders.clip import ClipEncoder

        make = ClipEncoder
        if prompt_blocks is not None:
            options["prompt_blocks"] = prompt_blocks
    encoder = make(name, device=device, **options)
    encoder.set_precision(head_dtype(precision, encoder.device))
    return encoder
