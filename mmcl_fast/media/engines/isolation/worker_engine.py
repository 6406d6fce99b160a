"""An engine whose batches are decoded in worker processes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmcl_fast.media.engines.engine import Chunk, ThreadEngine
from mmcl_fast.media.engines.isolation.jobs import Decoders, Job
from mmcl_fast.media.spec import Spec


class WorkerEngine(ThreadEngine):
    """The CPU backend in the processes of ``decoders``; see ``ThreadEngine``.

    Args:
        spec: the encoder's preparation.
        decoders: the processes; the caller closes them.
        device: of the batches.
        workers: number of threads that wait for the processes; it should equal the number of processes.
    """

    def __init__(self, spec: Spec, decoders: Decoders, *, device: torch.device | str = "cpu", workers: int = 2):
        super().__init__(spec, device=device, workers=max(1, workers))
        self.decoders = decoders

    def _fill_slots(
        self, chunk: Chunk, slots: range, items: Sequence[Any], view: int, seed: int, stop: threading.Event
    ) -> None:
        assert isinstance(chunk.data, Tensor)
        jobs = []
        for slot in slots:
            item = items[chunk.indices[slot]]
            specs = {item.modality: self.spec}
            jobs.append(Job(item.path, item.modality, specs, False, chunk.data[slot], view, seed, item.key))
        if stop.is_set():
            return
        for slot, outcome in zip(slots, self.decoders.run(jobs), strict=True):
            if outcome.error is not None:
                chunk.faults[slot] = outcome.error
