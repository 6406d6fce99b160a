"""Predictions for files and lines of text, in batches of one modality, given in the order of the input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from mmcl_fast.errors import ConfigError, MediaError, RunError, UserError
from mmcl_fast.learning.model import Model, spec_of
from mmcl_fast.media.engines import isolation
from mmcl_fast.media.engines.engine import Engine
from mmcl_fast.media.engines.isolation.worker_engine import WorkerEngine
from mmcl_fast.media.engines.loader import make_engine
from mmcl_fast.media.registry import MODALITIES
from mmcl_fast.media.source import name_of
from mmcl_fast.methods import Classes
from mmcl_fast.streams.sample import Sample

SNIFF_BATCH = 16  # files whose modality a worker finds in one job
BATCHES_AHEAD = 8  # batches that are sorted by modality together; memory holds no more files than these


@dataclass(frozen=True)
class Line:
    """A text that is not in a file.

    Attributes:
        name: stands for the text in predictions and messages, for example ``stdin:3``.
        text: the text.
    """

    name: str
    text: str


@dataclass(frozen=True)
class Prediction:
    """The prediction for one file or line of text.

    Attributes:
        file: the file as it was given, or the line's name.
        modality: the modality it was decoded as; None where the modality was not found.
        labels: the k best classes (modality, name), best first; all classes if there are fewer than k. A class given
            by its text has the modality "". Empty where there is no prediction.
        probabilities: probability of each class in ``labels``: softmax over all classes that compete. For the classes
            learned it has the temperature of the modality (``Learner.calibration``).
        contributions: modality -> weight of its prompts and gate. None for methods without contributions, before the
            first task, and where there is no prediction.
        error: one line that names the file and says why there is no prediction; None where there is one.
        unknown: from 0 to 1, how little the sample resembles the classes learned: the share of held-out samples of
            these classes that resemble them more. None with other class texts, and where too few samples were learned.

    Example::

        for p in learner.predict(["bark.wav", "street.mp4"], top_k=1):
            print(p.file, p.modality, p.labels[0][1], p.probabilities[0])
    """

    file: str
    modality: str | None
    labels: list[tuple[str, str]]
    probabilities: list[float]
    contributions: dict[str, float] | None
    error: str | None = None
    unknown: float | None = None

    def record(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "file": self.file,
            "modality": self.modality,
            "contributions": self.contributions,
            "labels": [
                {"modality": m or None, "class": c, "probability": q}
                for (m, c), q in zip(self.labels, self.probabilities)
            ],
            "unknown": self.unknown,
            "error": self.error,
        }


class Predictor:
    """Predicts files and decoded batches with a model.

    Args:
        model: the learner, or another ``Model``.
        modality: the modality of all files; None: found from the content of each file.
        top_k: number of classes in each prediction.
        given: whether the modality, besides the sample, may choose prompts and gates. It never limits the classes.
            None: True where ``modality`` is given, else False.
        classes: texts that compete in place of the classes learned.
        batch_size: number of files that are decoded and embedded together.

    Raises:
        RunError: nothing has been learned, and there are no ``classes``.
        ConfigError: a value is out of range, or ``classes`` is given for a method that does not score texts.
    """

    def __init__(
        self,
        model: Model,
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
        self.model, self.encoder, self.method = model, model.encoder, model.method
        self.modality, self.top_k, self.batch_size = modality, top_k, batch_size
        self.given = bool(modality) if given is None else given
        self.classes = model.classes if classes is None else self._classes_of_texts(classes)
        if not len(self.classes):
            raise RunError("predict: nothing has been learned yet; call learn first or load a run")
        self.workers = max(1, model.cache.workers)
        self.engines: dict[str, Engine] = {}

    def _classes_of_texts(self, texts: Sequence[str]) -> Classes:
        if not type(self.method).scores_texts:
            raise ConfigError(
                f"classes: method {self.method.name} scores the classes it has learned, not texts; use "
                "a run of comm, dns, finetune or zero_shot"
            )
        texts = list(dict.fromkeys(text.strip() for text in texts if text.strip()))
        if not texts:
            raise ConfigError("classes: no text in it; give texts such as 'a photo of a cat'")
        return Classes([("", text) for text in texts], texts, self.encoder.text(texts).to(self.encoder.device))

    def run(self, files: Iterable[str | Path | Line]) -> Iterator[Prediction]:
        """Yield a prediction for each file, in order. One that can't be read gets a prediction with ``error`` set."""
        files = iter(files)
        decoders = isolation.open_decoders(self.model.settings.get("media"), self.workers)
        try:
            while window := list(islice(files, BATCHES_AHEAD * self.batch_size)):
                yield from self._predict_window(window, decoders)
        finally:
            decoders.close()
            self.engines.clear()

    @torch.no_grad()
    def predict_batch(
        self, modality: str, data: Tensor | list[str], names: Sequence[str], top_k: int | None = None
    ) -> list[Prediction]:
        """Predict one decoded batch of a modality.

        Args:
            modality: the modality of all of it.
            data: ``[B, F, 3, size, size]`` as the encoder's spec has it, or B strings.
            names: B names, the ``file`` of each prediction.
            top_k: number of classes; None: the predictor's ``top_k``.
        """
        tokens = self.encoder.trunk(data, modality).rounded().to(self.encoder.device)
        scores = self.method.scores(tokens, modality, self.classes, given=self.given)
        # Texts in place of classes have scores that no held-out sample was asked for.
        calibrated = self.classes is self.model.classes
        shares = self.model.calibration.probabilities(scores, modality) if calibrated else scores.softmax(1)
        unknown = self.model.unknown(tokens, modality) if calibrated else [None] * len(names)
        best = shares.topk(min(top_k or self.top_k, len(self.classes)), dim=1)
        return [
            Prediction(
                name,
                modality,
                [self.classes.keys[k] for k in ids],
                values,
                self.method.contributions(tokens[i : i + 1], modality, given=self.given),
                unknown=unknown[i],
            )
            for i, (name, ids, values) in enumerate(zip(names, best.indices.tolist(), best.values.tolist()))
        ]

    def _predict_window(self, files: Sequence[str | Path | Line], decoders: isolation.Decoders) -> list[Prediction]:
        """Sort files by modality, predict each modality's files in batches, and put them back in order."""
        found: dict[int, Prediction] = {}  # position in ``files`` -> prediction
        positions: dict[str, list[int]] = {}  # modality -> positions of its files
        unknown: dict[int, str | Path] = {}  # position -> file whose modality is not known yet
        for position, file in enumerate(files):
            try:
                modality = _modality_of_line(file) if isinstance(file, Line) else self.modality
            except MediaError as fault:
                found[position] = _failed(file, None, fault)
                continue
            if modality is not None:
                positions.setdefault(modality, []).append(position)
            elif not isinstance(file, Line):  # a line has its modality already
                unknown[position] = file
        for position, outcome in zip(unknown, self._find_modalities(list(unknown.values()), decoders)):
            if outcome.modality is None:
                found[position] = _failed(files[position], None, outcome.error)
            else:
                positions.setdefault(outcome.modality, []).append(position)
        for modality, found_at in positions.items():
            try:
                found |= self._predict_modality(modality, {i: files[i] for i in sorted(found_at)}, decoders)
            except UserError as fault:  # such as an encoder without this modality
                found |= {i: _failed(files[i], modality, fault) for i in found_at}
        return [found[position] for position in range(len(files))]

    def _find_modalities(
        self, files: Sequence[str | Path], decoders: isolation.Decoders
    ) -> Iterator[isolation.Outcome]:
        """Yield the modality of each file from its content, or the error that explains why there is none."""
        jobs = [isolation.Job(file, None, {}) for file in files]
        if not decoders.workers or len(jobs) < 2:
            yield from decoders.run(jobs)
            return
        size = max(1, min(SNIFF_BATCH, len(jobs) // self.workers))
        with ThreadPoolExecutor(self.workers) as threads:
            for outcomes in threads.map(decoders.run, (jobs[i : i + size] for i in range(0, len(jobs), size))):
                yield from outcomes

    def _engine(self, modality: str, decoders: isolation.Decoders) -> Engine:
        """Return what decodes a modality's files in batches, made once for each modality.

        It is the isolated workers where there are any, even on a GPU, because they survive a crash. Texts, and files
        without workers, get the engine of ``make_engine``.
        """
        if modality not in self.engines:
            spec, device, workers = spec_of(self.model, modality), self.encoder.device, self.model.cache.workers
            self.engines[modality] = (
                WorkerEngine(spec, decoders, device=device, workers=self.workers)
                if decoders.workers and modality != "text"
                else make_engine(spec, device, workers=workers, batch_size=self.batch_size)
            )
        return self.engines[modality]

    def _predict_modality(
        self, modality: str, files: dict[int, str | Path | Line], decoders: isolation.Decoders
    ) -> dict[int, Prediction]:
        """Return position -> prediction of files of one modality."""
        engine = self._engine(modality, decoders)
        positions, out = list(files), {}
        samples = [
            Sample(
                modality,
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
                position = positions[chunk.indices[slot]]
                out[position] = _failed(files[position], modality, fault)
            decoded = [slot for slot in range(len(chunk.indices)) if slot not in chunk.faults]
            if decoded:
                batch = chunk.data
                data = batch[decoded] if isinstance(batch, Tensor) else [batch[slot] for slot in decoded]
                names = [samples[chunk.indices[slot]].key for slot in decoded]
                predictions = self.predict_batch(modality, data, names)
                out |= zip((positions[chunk.indices[slot]] for slot in decoded), predictions)
        return out


def raise_first_error(predictions: Iterable[Prediction]) -> Iterator[Prediction]:
    """Yield the predictions; raise MediaError at the first one with an error."""
    for prediction in predictions:
        if prediction.error is not None:
            raise MediaError(prediction.error)
        yield prediction


def _failed(file: str | Path | Line, modality: str | None, error: Exception | str | None) -> Prediction:
    return Prediction(_name(file), modality, [], [], None, str(error))


def _modality_of_line(line: Line) -> str:
    """Return "text"; raise MediaError where the line holds no words, or bytes that are not UTF-8."""
    if not line.text.strip():
        raise MediaError(f"{line.name}: holds no words: leave it out")
    try:
        line.text.encode()
    except UnicodeEncodeError:  # surrogates stand for bytes that are no UTF-8
        raise MediaError(f"{line.name}: not UTF-8: convert it") from None
    return "text"


def _name(file: str | Path | Line) -> str:
    return file.name if isinstance(file, Line) else name_of(file)


class FilePredictions:
    """The part of a learner that predicts files and texts."""

    def predict(
        self,
        files: Iterable[str | Path | Line],
        *,
        modality: str | None = None,
        top_k: int = 5,
        given: bool | None = None,
        classes: Sequence[str] | None = None,
        batch_size: int = 32,
        on_error: str = "error",
    ) -> list[Prediction]:
        """Return all of :meth:`predictions` as a list.

        Example::

            learner.predict(["bark.wav", "street.mp4"])[0].labels  # [("audio", "dog"), ...], best first
        """
        return list(
            self.predictions(
                files,
                modality=modality,
                top_k=top_k,
                given=given,
                classes=classes,
                batch_size=batch_size,
                on_error=on_error,
            )
        )

    def predictions(
        self,
        files: Iterable[str | Path | Line],
        *,
        modality: str | None = None,
        top_k: int = 5,
        given: bool | None = None,
        classes: Sequence[str] | None = None,
        batch_size: int = 32,
        on_error: str = "error",
    ) -> Iterator[Prediction]:
        """Predict files of any modality, each by itself, and yield the predictions in order.

        Memory stays flat, however many files there are.

        Args:
            files: paths of files, and a ``Line`` for each text that is not in a file.
            modality: the modality of all files; None: found from the content of each file.
            top_k: number of classes in each prediction.
            given: whether the modality, besides the sample, may choose prompts and gates. It never limits the classes.
                None: True where ``modality`` is given, else False.
            classes: texts that compete in place of the classes learned, whether learned or not. Samples are embedded
                with the prompts and the re-alignment that were learned; the text encoder embeds the texts.
            batch_size: number of files that are decoded and embedded together.
            on_error: ``error`` raises at the first broken file; ``report`` yields a ``Prediction`` with ``error`` set
                and goes on.

        Raises:
            RunError: nothing has been learned, and there are no ``classes``.
            ConfigError: a value is out of range, or ``classes`` is given for a method that does not score texts.
            MediaError: the first broken file, with ``on_error="error"``.
        """
        if on_error not in ("error", "report"):
            raise ConfigError(f"on_error = {on_error!r}: use error or report")
        found = Predictor(cast(Model, self), modality, top_k, given, classes, batch_size).run(files)
        return found if on_error == "report" else raise_first_error(found)
