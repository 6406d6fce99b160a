"""A process that decodes what it is handed, one file after another, and can do no harm."""

from __future__ import annotations

import errno
import json
import mmap
import socket
import traceback
from typing import Any

import torch
from torch import Tensor

from mmcl_fast.errors import MediaError
from mmcl_fast.media.decode import check, decode
from mmcl_fast.media.engines.isolation import messages, sandbox
from mmcl_fast.media.engines.isolation.limits import Limits
from mmcl_fast.media.engines.isolation.passed_files import HEAD, restore
from mmcl_fast.media.sniff import sniff
from mmcl_fast.media.source import Source
from mmcl_fast.media.spec import Spec, VisualSpec, spec_from_dict

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "bad_alloc")  # torch's and C++'s words


def work(sock: socket.socket, limits: Limits) -> None:
    """Answer requests until the parent is gone. Says first what is forbidden here."""
    meter = sandbox.Meter(limits)
    try:
        meter.limit_memory()
        forbidden = sandbox.enter()
    except Exception as fault:
        messages.answer(sock, {"error": f"{type(fault).__name__}: {fault}"})
        return
    messages.answer(sock, {"forbidden": forbidden})
    try:
        _Worker(sock, meter).work()
    except messages.Ended:
        return


class _Worker:
    def __init__(self, sock: socket.socket, meter: sandbox.Meter) -> None:
        self.sock, self.meter = sock, meter
        self.memory: mmap.mmap | None = None
        self.specs: dict[int, Spec] = {}

    def work(self) -> None:
        while True:
            request, descriptors = messages.requested(self.sock)
            for number, text in request["specs"].items():
                self.specs[number] = spec_from_dict(json.loads(text))
            if request["memory"]:
                self.memory = None
                self.memory = mmap.mmap(descriptors[-1], request["memory"])
            answers = []
            try:
                for number, job in enumerate(request["jobs"]):
                    assert self.memory is not None
                    self.memory[0] = number
                    self.meter.begin()
                    answers.append(self._answer(job, descriptors))
                    if answers[-1].get("memory"):
                        break  # this process is not to be trusted with another
            finally:
                messages.close(descriptors)
            messages.answer(self.sock, {"answers": answers})

    def _answer(self, job: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        try:
            place = job["descriptor"]
            return self._do(job, restore(job["source"], -1 if place is None else descriptors[place]))
        except MediaError as error:
            return {"error": str(error)[:4000], "memory": _out_of_memory(error, self.meter)}
        except MemoryError:
            return {"error": "", "memory": True}
        except Exception as error:  # a fault of ours, which the parent raises as such
            said = "".join(traceback.format_exception(error))[-20_000:]
            return {"fault": said, "memory": _out_of_memory(error, self.meter)}

    def _do(self, job: dict[str, Any], source: Source) -> dict[str, Any]:
        modality, specs = job["modality"], job["specs"]
        if modality is None:
            modality = sniff(source)
        if modality not in specs:  # nothing more is asked for
            return {"modality": modality}
        spec = self.specs[specs[modality]]
        if job["place"] is None:
            check(source, modality, spec)
        elif isinstance(spec, VisualSpec):
            out = self._planes(job["place"], spec.shape)
            try:
                decode(source, modality, spec, view=job["view"], seed=job["seed"], key=job["key"], out=out)
            except MediaError as error:
                return {"modality": modality, "error": str(error)[:4000], "memory": _out_of_memory(error, self.meter)}
        return {"modality": modality}

    def _planes(self, place: int, shape: tuple[int, ...]) -> Tensor:
        assert self.memory is not None
        count = torch.Size(shape).numel()
        return torch.frombuffer(self.memory, dtype=torch.float32, count=count, offset=HEAD + place).view(shape)


def _out_of_memory(error: BaseException | None, meter: sandbox.Meter) -> bool:
    """Whether memory ran out on the way to this error.

    FFmpeg says so of every absurd size, and asks the system for none of it; then the file is broken and no more.
    """
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOMEM:
            return meter.was_near_limit()
        if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False
