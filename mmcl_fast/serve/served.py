"""A version of a model as a server holds it: the learner, and all that a batch needs of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from mmcl_fast.errors import RunError, UserError
from mmcl_fast.learning import Learner, Prediction, checkpoint
from mmcl_fast.learning.current_version import VERSIONS, current_version, version_folder
from mmcl_fast.learning.predict import Predictor
from mmcl_fast.learning.versions import read_record, require_run
from mmcl_fast.media import MODALITIES
from mmcl_fast.media.spec import Spec, TextSpec
from mmcl_fast.runs.versions import read_newest


@dataclass(frozen=True)
class ServedVersion:
    """A version, as answers name it.

    Attributes:
        number: its number in its run; None: a saved learner, which has no versions.
        parent: number of the version that it learned on from; None: it was trained from nothing, or from another run.
        learned_at: when learning it began, in UTC, as ISO 8601; None: unknown.
    """

    number: int | None = None
    parent: int | None = None
    learned_at: str | None = None


class ServedModel:
    """A learner that answers requests. Equal only to itself.

    Args:
        learner: the learner.
        version: the version that it is.
        classes: texts to choose from in place of the classes learned; None: the classes learned.
        max_batch: number of items that are predicted together at most.

    Attributes:
        predictors: whether the client gave the modality -> the predictor.
        specs: modality -> preparation of its input, for each modality that the encoder supports.
        modalities: the modalities learned.

    Raises:
        RunError: the learner has learned nothing.
        ConfigError: ``classes`` were given, and the method scores no texts.
    """

    def __init__(self, learner: Learner, version: ServedVersion, classes: Sequence[str] | None, max_batch: int) -> None:
        self.learner, self.version = learner, version
        self.predictors = {given: Predictor(learner, None, 1, given, classes, max_batch) for given in (False, True)}
        self.specs = dict(_supported_specs(learner))
        self.modalities: list[str] = list(dict.fromkeys(task["modality"] for task in learner.tasks))

    @property
    def headers(self) -> dict[str, str]:
        """The header of an answer that names the version."""
        return {} if self.version.number is None else {"X-Model-Version": str(self.version.number)}

    def learned_classes(self) -> dict[str, set[str]]:
        """Return the names of the classes learned, former ones included, by the modality of their samples."""
        found: dict[str, set[str]] = {}
        for task in self.learner.tasks:
            found.setdefault(task["modality"], set()).update(task["classes"])
        for modality, former in self.learner.aliases:
            found.setdefault(modality, set()).add(former)
        return found

    def warm_up(self) -> None:
        """Predict a made-up item of each modality learned, as batches will.

        Raises:
            RunError: a probability is not finite. Other errors are the ones that a batch would meet.
        """
        for modality in self.modalities:
            if modality not in self.specs:
                continue
            spec = self.specs[modality]
            noise = torch.Generator().manual_seed(0)  # grey alone could divide by a deviation of zero
            data: Any = ["a text"] if isinstance(spec, TextSpec) else torch.rand(1, *spec.shape, generator=noise)
            (found,) = self.predictors[False].predict_batch(modality, data, ["warm-up"], 1)
            if not is_finite(found):
                raise RunError(f"its answers for {modality} are not finite; go back with mmcl-fast rollback")


def is_finite(prediction: Prediction) -> bool:
    """Return whether all probabilities are finite."""
    return all(map(math.isfinite, prediction.probabilities))


def _supported_specs(learner: Learner) -> Iterator[tuple[str, Spec]]:
    """Yield (modality, how to prepare its input) for each modality that the encoder supports."""
    for modality in MODALITIES:
        with suppress(UserError):
            yield modality, learner.spec(modality)


def require_versions(run: Path) -> None:
    """Check that a folder has versions to watch. Raises UserError."""
    try:
        require_run(run)
    except RunError as fault:
        raise UserError(f"--watch: {fault}, or leave out --watch") from None


def load_current(run: Path, device: str) -> tuple[Learner, ServedVersion]:
    """Load the current version of a run, a version named by its folder, or a saved learner.

    Raises:
        RunError: a file is missing or broken.
    """
    number = current_version(run)
    folder = version_folder(run, number)
    # Not ``Learner.load(run)``: the pointer may move before it is read again.
    newest = checkpoint.find_latest(folder) if (folder / "checkpoints").is_dir() else None
    learner = Learner.load(newest or run, device=device, progress=None)
    return learner, ServedVersion() if newest is None else _describe(folder, number)


def load_version(run: Path, number: int, device: str) -> tuple[Learner, ServedVersion]:
    """Load a version of a run from its newest checkpoint.

    Raises:
        RunError: a file is missing or broken. An older checkpoint is no substitute for the newest one.
    """
    folder = version_folder(run, number)
    return Learner.load(read_newest(folder)[0], device=device, progress=None), _describe(folder, number)


def _describe(folder: Path, number: int) -> ServedVersion:
    record = read_record(folder)
    place = folder.resolve()
    if number == 1 and place.parent.name == VERSIONS and place.name.isdecimal():
        number = int(place.name)  # the folder of one version was given
    if record is not None:
        return ServedVersion(number, record.parent, record.created)
    with suppress(OSError):
        written = datetime.fromtimestamp((folder / "config.json").stat().st_mtime, UTC)
        return ServedVersion(number, None, written.replace(microsecond=0).isoformat())
    return ServedVersion(number)
