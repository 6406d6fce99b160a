"""The worker: a process without rights that decodes files, one after another."""

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
from mmcl_fast.media.engines.isolation.limits import DecodeLimits
from mmcl_fast.media.engines.isolation.passed_files import SHARED_HEADER, unpack_source
from mmcl_fast.media.sniff import sniff
from mmcl_fast.media.source import Source
from mmcl_fast.media.spec import Spec, VisualSpec, spec_from_dict

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "bad_alloc")  # parts of the messages of torch and C++


def serve(sock: socket.socket, limits: DecodeLimits) -> None:
    """Give up all rights, send the list of them, and answer requests until the parent is gone."""
    file_limits = sandbox.FileLimits(limits)
    try:
        file_limits.limit_memory()
        forbidden = sandbox.drop_rights()
    except Exception as fault:
        messages.send_answer(sock, {"error": f"{type(fault).__name__}: {fault}"})
        return
    messages.send_answer(sock, {"forbidden": forbidden})
    try:
        _DecodeServer(sock, file_limits).serve()
    except messages.ConnectionEnded:
        return


class _DecodeServer:
    def __init__(self, sock: socket.socket, limits: sandbox.FileLimits) -> None:
        self.sock, self.limits = sock, limits
        self.memory: mmap.mmap | None = None
        self.specs: dict[int, Spec] = {}

    def serve(self) -> None:
        """Answer requests. Raises messages.ConnectionEnded when the parent is gone."""
        while True:
            request, descriptors = messages.receive_request(self.sock)
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
                    self.limits.start_file()
                    answers.append(self._answer(job, descriptors))
                    if answers[-1].get("memory"):
                        break  # after running out of memory this process may be broken
            finally:
                messages.close_descriptors(descriptors)
            messages.send_answer(self.sock, {"answers": answers})

    def _answer(self, job: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        try:
            place = job["descriptor"]
            return self._decode(job, unpack_source(job["source"], -1 if place is None else descriptors[place]))
        except MediaError as error:
            return {"error": str(error)[:4000], "memory": _ran_out_of_memory(error, self.limits)}
        except MemoryError:
            return {"error": "", "memory": True}
        except Exception as error:  # a bug in this package; the parent raises it
            text = "".join(traceback.format_exception(error))[-20_000:]
            return {"fault": text, "memory": _ran_out_of_memory(error, self.limits)}

    def _decode(self, job: dict[str, Any], source: Source) -> dict[str, Any]:
        modality, specs = job["modality"], job["specs"]
        if modality is None:
            modality = sniff(source)
        if modality not in specs:  # only the modality is wanted
            return {"modality": modality}
        spec = self.specs[specs[modality]]
        if job["place"] is None:
            check(source, modality, spec)
        elif isinstance(spec, VisualSpec):
            out = self._view_planes(job["place"], spec.shape)
            try:
                decode(source, modality, spec, view=job["view"], seed=job["seed"], key=job["key"], out=out)
            except MediaError as error:
                return {
                    "modality": modality,
                    "error": str(error)[:4000],
                    "memory": _ran_out_of_memory(error, self.limits),
                }
        return {"modality": modality}

    def _view_planes(self, place: int, shape: tuple[int, ...]) -> Tensor:
        assert self.memory is not None
        count = torch.Size(shape).numel()
        return torch.frombuffer(self.memory, dtype=torch.float32, count=count, offset=SHARED_HEADER + place).view(shape)


def _ran_out_of_memory(error: BaseException | None, limits: sandbox.FileLimits) -> bool:
    """Return whether an error was caused by a lack of memory.

    FFmpeg reports ENOMEM for every absurd size in a file, without asking the system for memory. Then only the file is
    broken.
    """
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOMEM:
            return limits.was_near_limit()
        if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False
