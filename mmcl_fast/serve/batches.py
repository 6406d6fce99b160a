"""Predict items of many requests: worker processes decode them, one thread predicts them in batches by modality."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmcl_fast.distributed import available_cores
from mmcl_fast.errors import MediaError, UserError
from mmcl_fast.learning import Learner, Prediction
from mmcl_fast.media.engines import isolation
from mmcl_fast.media.engines.engine import make_thread_pool
from mmcl_fast.media.source import name_of
from mmcl_fast.serve.limits import Limits
from mmcl_fast.serve.served import ServedModel, ServedVersion, is_finite

if TYPE_CHECKING:
    from mmcl_fast.serve.body import Item

MAX_DECODED_BATCHES = 4  # decoded items wait in memory: so many full batches at most


@dataclass(frozen=True)
class DecoderDeath(Prediction):
    """The failed prediction of an item that ended the process which decoded it."""


@dataclass
class _DecodedItem:
    """An item that waits for its batch.

    Attributes:
        since: when it was decoded, in the event loop's time.
        data: what the trunk takes.
        future: gets the prediction.
    """

    since: float
    name: str
    data: Tensor | str
    top_k: int
    future: asyncio.Future[Prediction]


# The version that predicts, the modality, and whether the client gave the modality.
_Group = tuple[ServedModel, str, bool]


class Batches:
    """Predicts items of many requests together, each as ``Learner.predict`` predicts its file alone.

    The CPU decodes, also for a learner on a GPU. It does so in worker processes, unless the system has none (Windows),
    or the run's ``media.isolate`` or the environment variable MMCL_FAST_ISOLATE turns these off.

    Another version may take the learner's place at any time: see ``take_over``.

    Args:
        learner: the learner.
        version: the version that it is.
        limits: the size of a batch, the time that an item waits, and the limits of decoding.
        classes: texts to choose from in place of the classes learned; None: the classes learned.
        on_batch: called with the size of each batch.
        on_death: called with the reason why a decoding process ended, one of ``isolation.REASONS``.

    Attributes:
        model: the version that answers new requests.

    Raises:
        IsolationError: no decoding process can be started.
        RunError: the learner has learned nothing.
        ConfigError: ``classes`` were given, and the method scores no texts.
    """

    def __init__(
        self,
        learner: Learner,
        version: ServedVersion,
        limits: Limits,
        classes: Sequence[str] | None,
        on_batch: Callable[[int], None],
        on_death: Callable[[str], None],
    ) -> None:
        self.limits, self.classes, self.on_batch = limits, classes, on_batch
        self.model = ServedModel(learner, version, classes, limits.max_batch)
        settings = learner.settings.get("media")
        self.decoders = isolation.open_decoders(settings, available_cores(), _lower_limits(limits, settings), on_death)
        if isinstance(self.decoders, isolation.Pool):
            self.decoders.start()
        self.decode_threads = make_thread_pool(available_cores())
        # One thread is enough: torch uses all cores for one batch.
        self._learner_thread = ThreadPoolExecutor(1, "mmcl-fast-learner")
        # Group -> items in the order of their arrival: only such items fit into one batch.
        self._waiting: dict[_Group, deque[_DecodedItem]] = {}
        self._new_item = asyncio.Event()
        self._decoded_slots = asyncio.Semaphore(MAX_DECODED_BATCHES * limits.max_batch)

    async def take_over(self, learner: Learner, version: ServedVersion) -> None:
        """Let another version answer the requests from now on, once it has answered a warm-up.

        Requests that began keep their version, which is freed after the last of them. Whatever goes wrong, ``model``
        stays as it was.

        Raises:
            Exception: what the warm-up met.
        """

        def prepare() -> ServedModel:
            model = ServedModel(learner, version, self.classes, self.limits.max_batch)
            model.warm_up()
            return model

        self.model = await asyncio.get_running_loop().run_in_executor(self._learner_thread, prepare)

    async def check(self, item: Item, model: ServedModel) -> isolation.Outcome:
        """Decode an item to its end; the outcome has its modality, and an error if it can't be read."""

        def run() -> isolation.Outcome:
            (outcome,) = self.decoders.run([isolation.Job(item.data, item.modality, model.specs, check_only=True)])
            if outcome.error is None and outcome.modality not in (None, *model.specs):
                line = f"{name_of(item.data)}: is {outcome.modality}, which the encoder does not have: leave it out"
                return isolation.Outcome(outcome.modality, MediaError(line))
            return outcome

        return await asyncio.get_running_loop().run_in_executor(self.decode_threads, run)

    async def predict(self, item: Item, top_k: int, model: ServedModel) -> Prediction:
        """Predict an item. The prediction has ``error`` set if the item can't be read."""
        loop = asyncio.get_running_loop()
        async with self._decoded_slots:
            modality, data, fault = await loop.run_in_executor(self.decode_threads, self._decode, item, model)
            if data is None or modality is None:
                result = DecoderDeath if isinstance(fault, isolation.DecoderDied) else Prediction
                return result(item.name, modality, [], [], None, error_line(item, fault))
            future: asyncio.Future[Prediction] = loop.create_future()
            group = self._waiting.setdefault((model, modality, item.given), deque())
            group.append(_DecodedItem(loop.time(), item.name, data, top_k, future))
            self._new_item.set()
            return await future

    def _decode(self, item: Item, model: ServedModel) -> tuple[str | None, Tensor | str | None, UserError | None]:
        """Return the modality, the data for the trunk, and the error if there is no data."""
        (outcome,) = self.decoders.run([isolation.Job(item.data, item.modality, model.specs)])
        modality, data, fault = outcome.modality, outcome.data, outcome.error
        if data is None and fault is None and modality is not None:
            try:
                model.learner.spec(modality)
            except UserError as error:  # an encoder without this modality
                return modality, None, error
        return modality, data, fault

    async def work(self) -> None:
        """Predict batch after batch until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            key = min(self._waiting, key=self._due, default=None)
            wait = None if key is None else self._due(key) - loop.time()
            if key is None or (wait and wait > 0):
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._new_item.wait(), wait)
                self._new_item.clear()
                continue
            group = self._waiting[key]
            items = [group.popleft() for _ in range(min(len(group), self.limits.max_batch))]
            if not group:
                del self._waiting[key]
            self.on_batch(len(items))
            try:
                found = await loop.run_in_executor(self._learner_thread, self._predict_batch, key, items)
            except Exception as fault:  # a bug: it ends the requests of this batch, the others go on
                for item in items:
                    if not item.future.done():
                        item.future.set_exception(fault)
                continue
            for item, prediction in zip(items, found):
                if not item.future.done():  # a request that was cancelled when the server stopped is done
                    item.future.set_result(prediction)

    def _due(self, key: _Group) -> float:
        """Return when to predict a group: at once if it fills a batch, else ``wait_ms`` after its first item."""
        group = self._waiting[key]
        return group[0].since + (0.0 if len(group) >= self.limits.max_batch else self.limits.wait_ms / 1000)

    def _predict_batch(self, key: _Group, items: Sequence[_DecodedItem]) -> list[Prediction]:
        model, modality, given = key
        data: list[Any] = [item.data for item in items]
        batch = torch.stack(data) if isinstance(data[0], Tensor) else data
        names = [item.name for item in items]
        try:
            found = model.predictors[given].predict_batch(modality, batch, names, max(item.top_k for item in items))
        except UserError as fault:  # an encoder without this modality
            return [Prediction(name, modality, [], [], None, f"{name}: {fault}") for name in names]
        return [_check_finite(p, item.top_k) for p, item in zip(found, items)]

    def close(self) -> None:
        """End the threads and the decoding processes."""
        self.decoders.close()
        self.decode_threads.shutdown(cancel_futures=True)
        self._learner_thread.shutdown(cancel_futures=True)


def error_line(item: Item, fault: Exception | None) -> str:
    """Return the reader's line about an item, with the name that the client knows."""
    return f"{item.name}: {str(fault).removeprefix(name_of(item.data) + ': ')}"


def _lower_limits(limits: Limits, settings: Mapping[str, Any] | None) -> isolation.DecodeLimits:
    """Return the lower one of each decoding limit of the server and of the run."""
    run = isolation.limits_of(settings)
    return isolation.DecodeLimits(
        min(run.max_decode_mb, limits.max_decode_mb),
        min(run.max_decode_seconds, limits.max_decode_seconds),
        min(run.max_decode_wait, limits.max_decode_wait),
    )


def _check_finite(p: Prediction, top_k: int) -> Prediction:
    """Return the best ``top_k`` classes of a prediction, or an error if a probability is not finite."""
    if not is_finite(p):
        return Prediction(p.file, p.modality, [], [], None, f"{p.file}: its content gives no finite scores: replace it")
    return replace(p, labels=p.labels[:top_k], probabilities=p.probabilities[:top_k])
