"""Samples whose files do not decode: their record, and its JSONL form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mmcl_fast.errors import StreamError
from mmcl_fast.streams.sample import Sample


@dataclass(frozen=True)
class BrokenSample:
    """A sample whose file does not decode as its modality.

    Attributes:
        key, path, modality, split, label: as in ``Sample``; ``path`` as a string.
        reason: the message of the MediaError. It begins with the file's name.
    """

    key: str
    path: str
    modality: str
    split: str
    label: str
    reason: str

    @classmethod
    def from_error(cls, sample: Sample, error: object) -> BrokenSample:
        """Return the record of ``sample``, whose decoding ended with ``error``."""
        return cls(sample.key, str(sample.path), sample.modality, sample.split, sample.label, str(error))


def broken_samples_to_jsonl(broken: Sequence[BrokenSample]) -> str:
    """Return one JSON object per line, in ASCII."""
    return "".join(json.dumps(asdict(sample)) + "\n" for sample in broken)


def read_broken_samples(file: Path) -> list[BrokenSample]:
    """Read the output of ``broken_samples_to_jsonl``.

    Raises:
        StreamError: the file can't be read or holds something else.
    """
    try:
        return [BrokenSample(**json.loads(line)) for line in file.read_bytes().splitlines()]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise StreamError(
            f"{file}: not a list of broken samples ({error}): restore it from a copy, or start a new run"
        ) from None
