"""What files and lines of text are taken for: read in batches of one modality, told in the order they came."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmcl_fast.errors import ConfigError, MediaError, RunError, UserError
from mmcl_fast.media.engines import isolation
from mmcl_fast.media.engines.engine import Engine
from mmcl_fast.media.engines.isolation.engine import WorkerEngine
from mmcl_fast.media.engines.loader import make_engine
from mmcl_fast.media.registry import MODALITIES
from mmcl_fast.media.source import name_of
from mmcl_fast.methods import Classes
from mmcl_fast.streams.sample import Sample

if TYPE_CHECKING:
    from mmcl_fast.learning.learner import Learner

SNIFFED_TOGETHER = 16  # files that a worker recognises in one go
BATCHES_AHEAD = 8  # batches that are sorted by modality together, and the most that is held in memory


@dataclass(frozen=True)
class Line:
    """A text that is no file; ``name`` stands for it in what is said of it."""

    name: str
    text: str


@dataclass(frozen=True)
class Prediction:
    """What one file, or line of text, is taken for.

    Attributes:
        file: as given.
        modality: how it was decoded, found from its content unless told; None where that was not found.
        labels: the k best classes, (modality, name), best first; the modality of classes that were given is "".
        probabilities: of ``labels``, softmax over all classes that compete.
        contributions: modality -> weight that its prompts and gate got; None for methods without any.
        error: why there is no prediction, one line that names the file; None where there is one.
    """

    file: str
    modality: str | None
    labels: list[tuple[str, str]]
    probabilities: list[float]
    contributions: dict[str, float] | None
    error: str | None = None

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "file": self.file,
            "modality": self.modality,
            "contributions": self.contributions,
            "labels": [
                {"modality": m or None, "class": c, "probability": q}
                for (m, c), q in zip(self.labels, self.probabilities)
            ],
            "error": self.error,
        }


class Predictor:
    """See ``Learner.predictions``, whose arguments these are."""

    def __init__(
        self,
        learner: Learner,
        modality: str | None,
        top_k: int,
        given: bool | None,
        classes: Sequence[str] | None,
        batch_size: int,
    ):
        if modality is not None and modality not in MODALITIES:
            raise ConfigError(f"modality {modality!r}: use one of {', '.join(MODALITIES)}")
        if top_k < 1 or batch_size < 1:
            raise ConfigError(f"top_k = {top_k}, batch_size = {batch_size}: both are at least 1")
        self.learner, self.encoder, self.method = learner, learner.encoder, learner.method
        self.modality, self.top_k, self.batch_size = modality, top_k, batch_size
        self.given = bool(modality) if given is None else given
        self.classes = learner.classes if classes is None else self._open(classes)
        if not len(self.classes):
            raise RunError("predict: nothing has been learned yet; call learn first or load a run")
        self.settings = learner.settings.get("media")
        self.workers = max(1, learner.cache.workers)
        self.engines: dict[str, Engine] = {}

    def _open(self, texts: Sequence[str]) -> Classes:
        if not type(self.method).reads_texts:
            raise ConfigError(
                f"classes: method {self.method.name} scores the classes it has learned, not texts; use "
                "a run of comm, dns, finetune or zero_shot"
            )
        texts = list(dict.fromkeys(text.strip() for text in texts if text.strip()))
        if not texts:
            raise ConfigError("classes: no text in it; give texts such as 'a photo of a cat'")
        return Classes([("", text) for text in texts], texts, self.encoder.text(texts).to(self.encoder.device))

    def run(self, files: Iterable[str | Path | Line]) -> Iterator[Prediction]:
        files = iter(files)
        decoders = isolation.decoders(self.settings, self.workers)
        try:
            while some := list(islice(files, BATCHES_AHEAD * self.batch_size)):
                yield from self._together(some, decoders)
        finally:
            decoders.close()
            self.engines.clear()

    def _together(self, files: Sequence[str | Path | Line], decoders: isolation.Decoders) -> list[Prediction]:
        found: dict[int, Prediction] = {}
        kinds: dict[str, list[int]] = {}
        unknown: list[int] = []
        for place, file in enumerate(files):
            try:
                kind = _words(file) if isinstance(file, Line) else self.modality
            except MediaError as fault:
                found[place] = Prediction(_name(file), None, [], [], None, str(fault))
            else:
                unknown += [place] * (kind is None)
                if kind is not None:
                    kinds.setdefault(kind, []).append(place)
        for place, outcome in zip(unknown, self._recognised([files[place] for place in unknown], decoders)):
            if outcome.modality is None:
                found[place] = Prediction(_name(files[place]), None, [], [], None, str(outcome.error))
            else:
                kinds.setdefault(outcome.modality, []).append(place)
        for kind, places in kinds.items():
            try:
                found |= self._alike(kind, {place: files[place] for place in sorted(places)}, decoders)
            except UserError as fault:  # an encoder without this modality
                found |= {place: Prediction(_name(files[place]), kind, [], [], None, str(fault)) for place in places}
        return [found[place] for place in range(len(files))]

    def _recognised(
        self, files: Sequence[str | Path | Line], decoders: isolation.Decoders
    ) -> Iterator[isolation.Outcome]:
        """The modality of each file, or why there is none."""
        jobs = [isolation.Job(file, None, {}) for file in files if not isinstance(file, Line)]
        if not decoders.workers or len(jobs) < 2:
            yield from decoders.run(jobs)
            return
        each = max(1, min(SNIFFED_TOGETHER, len(jobs) // self.workers))
        with ThreadPoolExecutor(self.workers) as threads:
            for outcomes in threads.map(decoders.run, (jobs[i : i + each] for i in range(0, len(jobs), each))):
                yield from outcomes

    def _engine(self, kind: str, decoders: isolation.Decoders) -> Engine:
        """What decodes files of a modality in batches. Workers are chosen before a GPU: they are what is safe."""
        if kind not in self.engines:
            spec, device, workers = self.learner.spec(kind), self.encoder.device, self.learner.cache.workers
            self.engines[kind] = (
                WorkerEngine(spec, decoders, device=device, workers=self.workers)
                if decoders.workers and kind != "text"
                else make_engine(spec, device, workers=workers, batch_size=self.batch_size)
            )
        return self.engines[kind]

    def _alike(
        self, kind: str, files: dict[int, str | Path | Line], decoders: isolation.Decoders
    ) -> dict[int, Prediction]:
        """Files of one modality."""
        engine = self._engine(kind, decoders)
        places, out = list(files), {}
        samples = [
            Sample(
                kind,
                "",
                None if isinstance(file, Line) else Path(file),
                file.text if isinstance(file, Line) else None,
                "test",
                _name(file),
            )
            for file in files.values()
        ]
        batches = [range(len(samples))[i : i + self.batch_size] for i in range(0, len(samples), self.batch_size)]
        for chunk in engine.run(samples, batches, view=0, seed=0):
            for slot, fault in chunk.faults.items():
                i = chunk.indices[slot]
                out[places[i]] = Prediction(samples[i].key, kind, [], [], None, str(fault))
            kept = [slot for slot in range(len(chunk.indices)) if slot not in chunk.faults]
            if kept:
                data = chunk.data[kept] if isinstance(chunk.data, Tensor) else [chunk.data[slot] for slot in kept]
                names = [samples[chunk.indices[slot]].key for slot in kept]
                out |= zip((places[chunk.indices[slot]] for slot in kept), self.decoded(kind, data, names))
        return out

    @torch.no_grad()
    def decoded(
        self, kind: str, data: Tensor | list[str], names: Sequence[str], top_k: int | None = None
    ) -> list[Prediction]:
        """Predictions of one batch of the modality ``kind``: ``[B, F, 3, size, size]``, or B strings."""
        tokens = self.encoder.trunk(data, kind).rounded().to(self.encoder.device)
        scores = self.method.scores(tokens, kind, self.classes, given=self.given)
        best = scores.softmax(1).topk(min(top_k or self.top_k, len(self.classes)), dim=1)
        return [
            Prediction(
                name,
                kind,
                [self.classes.keys[k] for k in ids],
                values,
                self.method.contributions(tokens[i : i + 1], kind, given=self.given),
            )
            for i, (name, ids, values) in enumerate(zip(names, best.indices.tolist(), best.values.tolist()))
        ]


def sound(found: Iterable[Prediction]) -> Iterator[Prediction]:
    """The same; raises MediaError at the first without a prediction."""
    for prediction in found:
        if prediction.error is not None:
            raise MediaError(prediction.error)
        yield prediction


def _words(line: Line) -> str:
    """The modality of a line; MediaError where it is no text that an encoder could take."""
    if not line.text.strip():
        raise MediaError(f"{line.name}: holds no words: leave it out")
    try:
        line.text.encode()
    except UnicodeEncodeError:  # surrogates, which stand for bytes that are no UTF-8
        raise MediaError(f"{line.name}: not UTF-8: convert it") from None
    return "text"


def _name(file: str | Path | Line) -> str:
    return file.name if isinstance(file, Line) else name_of(file)
