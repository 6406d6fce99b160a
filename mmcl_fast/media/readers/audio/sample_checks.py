"""Checks of rates, channels and samples that no recording can have."""

from __future__ import annotations

from typing import Any

from mmcl_fast.errors import MediaError

LOUDEST = 1e10  # full scale is 1 in float files, 2 ** 31 in a few; far above it the mel power overflows


def check_format(rate: int, channels: int) -> None:
    """Raise MediaError for a rate in Hz or a number of channels that no recording has."""
    if not 1000 <= rate <= 1_000_000:
        raise MediaError(f"a rate of {rate} Hz: 1 kHz to 1 MHz is read, convert it")
    if channels > 64:
        raise MediaError(f"{channels} channels: at most 64 are read, convert it")


def check_range(low: Any, high: Any) -> None:
    """Raise MediaError if samples between ``low`` and ``high`` are not finite or far too loud."""
    if not (low >= -LOUDEST and high <= LOUDEST):  # written so that NaN is refused
        raise MediaError(f"holds samples that are not finite or above {LOUDEST:g}: replace it")
