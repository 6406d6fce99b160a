"""How much one file may take of the machine while it is decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmcl_fast.errors import ConfigError

NAMES = ("max_decode_mb", "max_decode_seconds", "max_decode_wait")


@dataclass(frozen=True)
class Limits:
    """What decoding one file may take.

    Attributes:
        max_decode_mb: memory on top of the worker's own, in 10^6 bytes. Held on Linux.
        max_decode_seconds: processor time, in seconds, of all threads together.
        max_decode_wait: time on the clock, in seconds.

    Raises:
        ConfigError: a limit that is not above 0.
    """

    max_decode_mb: float = 4000.0
    max_decode_seconds: float = 600.0
    max_decode_wait: float = 1200.0

    def __post_init__(self) -> None:
        for name in NAMES:
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} = {getattr(self, name)!r}: give a number above 0")


def limits_of(settings: Mapping[str, Any] | None) -> Limits:
    """The limits among the settings of a config's [media]; the default for those that are missing or None."""
    given = {name: (settings or {}).get(name) for name in NAMES}
    return Limits(**{name: float(value) for name, value in given.items() if value is not None})


def wanted(settings: Mapping[str, Any] | None) -> bool:
    """Whether ``media.isolate`` asks for workers, as it does unless told otherwise."""
    return (settings or {}).get("isolate") is not False
