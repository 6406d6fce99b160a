"""Items to predictions: decoded in processes that may die, gathered by modality, predicted in batches by one thread."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmcl_fast.distributed import available_cores
from mmcl_fast.errors import UserError
from mmcl_fast.learning import Learner, Prediction
from mmcl_fast.learning.predict import Predictor
from mmcl_fast.media import MODALITIES
from mmcl_fast.media.engines import isolation
from mmcl_fast.media.engines.engine import pool_of
from mmcl_fast.media.source import name_of
from mmcl_fast.media.spec import Spec
from mmcl_fast.serve.limits import Limits

if TYPE_CHECKING:
    from mmcl_fast.serve.body import Item

AHEAD = 4  # batches that may be decoded before they are predicted: all that is decoded is in memory


@dataclass(frozen=True)
class Killer(Prediction):
    """An item that ended the process which decoded it."""


@dataclass
class _Waiting:
    """A decoded item: when it was, its name, how many classes to tell, and who waits for them."""

    since: float
    name: str
    data: Tensor | str
    top_k: int
    future: asyncio.Future[Prediction]


class Batches:
    """Predicts items from many requests together; each as ``Learner.predict`` does its file alone.

    Decoding is the CPU backend's, also for a learner on a GPU, and in processes of its own unless the run's
    ``media.isolate`` or MMCL_FAST_ISOLATE turns that off.

    Args:
        classes: texts that compete in place of the classes learned.
        seen: is told the size of each batch.
        died: is told why a process that decoded ended, one of ``isolation.REASONS``.

    Raises:
        IsolationError: no process that decodes can be started.
        RunError: nothing has been learned.
        ConfigError: ``classes`` with a method that does not score texts.
    """

    def __init__(
        self,
        learner: Learner,
        limits: Limits,
        classes: Sequence[str] | None,
        seen: Callable[[int], None],
        died: Callable[[str], None],
    ) -> None:
        self.learner, self.limits, self.seen = learner, limits, seen
        self.predictors = {
            given: Predictor(learner, None, 1, given, classes, limits.max_batch) for given in (False, True)
        }
        settings = learner.settings.get("media")
        self.decoders = isolation.decoders(settings, available_cores(), _allowed(limits, settings), died)
        if isinstance(self.decoders, isolation.Pool):
            self.decoders.start()
        self.specs = dict(_specs(learner))
        self.threads = pool_of(available_cores())
        self._thread = ThreadPoolExecutor(1, "mmcl-fast-learner")
        self._waiting: dict[tuple[str, bool], deque[_Waiting]] = {}
        self._changed = asyncio.Event()
        self._room = asyncio.Semaphore(AHEAD * limits.max_batch)

    async def predict(self, item: Item, top_k: int) -> Prediction:
        """What an item is taken for, with ``error`` set where it can't be read."""
        loop = asyncio.get_running_loop()
        async with self._room:
            kind, data, fault = await loop.run_in_executor(self.threads, self._decode, item)
            if data is None or kind is None:
                made = Killer if isinstance(fault, isolation.DecoderDied) else Prediction
                line = f"{item.name}: {str(fault).removeprefix(name_of(item.data) + ': ')}"
                return made(item.name, kind, [], [], None, line)
            future: asyncio.Future[Prediction] = loop.create_future()
            group = self._waiting.setdefault((kind, item.given), deque())
            group.append(_Waiting(loop.time(), item.name, data, top_k, future))
            self._changed.set()
            return await future

    def _decode(self, item: Item) -> tuple[str | None, Tensor | str | None, UserError | None]:
        """Modality, what the trunk takes, or why there is none."""
        (outcome,) = self.decoders.run([isolation.Job(item.data, item.modality, self.specs)])
        kind, data, fault = outcome.modality, outcome.data, outcome.error
        if data is None and fault is None and kind is not None:
            try:
                self.learner.spec(kind)
            except UserError as error:  # an encoder without this modality
                return kind, None, error
        return kind, data, fault

    async def work(self) -> None:
        """Batch after batch, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            key = min(self._waiting, key=self._due, default=None)
            wait = None if key is None else self._due(key) - loop.time()
            if key is None or (wait and wait > 0):
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), wait)
                self._changed.clear()
                continue
            group = self._waiting[key]
            some = [group.popleft() for _ in range(min(len(group), self.limits.max_batch))]
            if not group:
                del self._waiting[key]
            self.seen(len(some))
            try:
                found = await loop.run_in_executor(self._thread, self._together, key, some)
            except Exception as fault:  # of ours: each of these requests ends with it, the others go on
                for one in some:
                    if not one.future.done():
                        one.future.set_exception(fault)
                continue
            for one, prediction in zip(some, found):
                if not one.future.done():  # a request that was given up at the end
                    one.future.set_result(prediction)

    def _due(self, key: tuple[str, bool]) -> float:
        """When a group is to be predicted: at once where it is full."""
        group = self._waiting[key]
        return group[0].since + (0.0 if len(group) >= self.limits.max_batch else self.limits.wait_ms / 1000)

    def _together(self, key: tuple[str, bool], some: Sequence[_Waiting]) -> list[Prediction]:
        kind, given = key
        data: list[Any] = [one.data for one in some]
        batch = torch.stack(data) if isinstance(data[0], Tensor) else data
        names = [one.name for one in some]
        try:
            found = self.predictors[given].predict_batch(kind, batch, names, max(one.top_k for one in some))
        except UserError as fault:  # an encoder without this modality
            return [Prediction(name, kind, [], [], None, f"{name}: {fault}") for name in names]
        return [_finite(p, one.top_k) for p, one in zip(found, some)]

    def close(self) -> None:
        """Ends the threads and the processes."""
        self.decoders.close()
        self.threads.shutdown(cancel_futures=True)
        self._thread.shutdown(cancel_futures=True)


def _specs(learner: Learner) -> Iterator[tuple[str, Spec]]:
    """How the encoder wants each modality that it has."""
    for modality in MODALITIES:
        with suppress(UserError):
            yield modality, learner.spec(modality)


def _allowed(limits: Limits, settings: Mapping[str, Any] | None) -> isolation.Limits:
    """The lower one of each limit of the server and of the run."""
    run = isolation.limits_of(settings)
    return isolation.Limits(
        min(run.max_decode_mb, limits.max_decode_mb),
        min(run.max_decode_seconds, limits.max_decode_seconds),
        min(run.max_decode_wait, limits.max_decode_wait),
    )


def _finite(p: Prediction, top_k: int) -> Prediction:
    if not all(map(math.isfinite, p.probabilities)):
        return Prediction(p.file, p.modality, [], [], None, f"{p.file}: its content gives no finite scores: replace it")
    return replace(p, labels=p.labels[:top_k], probabilities=p.probabilities[:top_k])
