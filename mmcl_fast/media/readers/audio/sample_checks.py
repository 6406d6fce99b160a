"""What no recording is."""

from __future__ import annotations

from typing import Any

from mmcl_fast.errors import MediaError

LOUDEST = 1e10  # float files mean 1 by full scale, some 2 ** 31; far above, the powers overflow


def check_format(rate: int, channels: int) -> None:
    """Raises MediaError for a rate in Hz or a number of channels that no recording has."""
    if not 1000 <= rate <= 1_000_000:
        raise MediaError(f"a rate of {rate} Hz: 1 kHz to 1 MHz is read, convert it")
    if channels > 64:
        raise MediaError(f"{channels} channels: at most 64 are read, convert it")


def check_range(low: Any, high: Any) -> None:
    """Raises MediaError for samples from ``low`` to ``high`` that are not sound."""
    if not (low >= -LOUDEST and high <= LOUDEST):  # not a number is neither
        raise MediaError(f"holds samples that are not finite or above {LOUDEST:g}: replace it")
