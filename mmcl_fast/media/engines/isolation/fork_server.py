"""The fork server: a process that has imported every decoder and forks workers, so that they start in milliseconds.

It decodes no user's file, so a fork of it is clean. It has one thread, and ends with the process that started it.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from contextlib import suppress
from typing import Any

from mmcl_fast.errors import UserError
from mmcl_fast.media.engines.isolation import messages, sandbox
from mmcl_fast.media.engines.isolation.limits import DecodeLimits


def main(descriptor: int) -> None:
    """Answer the requests of the parent until it is gone. ``descriptor``: of the socket to the parent."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the parent decides when to end
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=descriptor)
    control.setblocking(True)
    try:
        readers = _prepare()
    except Exception as error:
        messages.send_answer(control, {"error": str(error) if isinstance(error, UserError) else repr(error)})
        return
    children: set[int] = set()
    try:
        messages.send_answer(control, {"readers": readers})
        while True:
            request, descriptors = messages.receive_request(control)
            messages.send_answer(control, _reply(request, descriptors, control, children))
            messages.close_descriptors(descriptors)
    except messages.ConnectionEnded:
        pass
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


def _reply(
    request: dict[str, Any], descriptors: list[int], control: socket.socket, children: set[int]
) -> dict[str, Any]:
    """Return the answer to a request to fork a worker, or to wait for one. In the worker it does not return."""
    if request["do"] == "wait":
        _, status = os.waitpid(request["process"], 0)
        children.discard(request["process"])
        return {"status": status}
    try:
        child = os.fork()
    except OSError as fault:
        return {"error": f"no process can be started ({fault.strerror})"}
    if child:
        children.add(child)
        return {"process": child}
    code = 1
    try:
        control.close()
        _become_worker(descriptors[0], DecodeLimits(**request["limits"]))
        code = 0
    finally:
        os._exit(code)  # exit handlers of the parent must not run a second time


def _become_worker(descriptor: int, limits: DecodeLimits) -> None:
    """Serve jobs in this fork. ``descriptor``: of the socket to the parent."""
    parent = os.getppid()
    sandbox.die_with_parent()
    if os.getppid() != parent:
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # libraries print messages when they crash
        os.dup2(nothing, stream)
    os.close(nothing)
    from mmcl_fast.media.engines.isolation import worker

    sock = socket.socket(fileno=descriptor)
    sock.setblocking(True)
    worker.serve(sock, limits)


def _prepare() -> dict[str, str]:
    """Import all decoders and the user's plugins. Return the source hash of each registered reader by modality."""
    import torch

    torch.set_num_threads(1)
    from mmcl_fast import plugins
    from mmcl_fast.media.engines.isolation import worker
    from mmcl_fast.media.readers import cpu
    from mmcl_fast.media.registry import REGISTRY

    assert cpu and worker
    plugins.load()
    for name in ("av", "soundfile", "simplejpeg", "OpenEXR", "PIL.Image"):
        try:
            module = __import__(name, fromlist=["init"])
        except ImportError:  # decoding says which package is missing
            continue
        if name == "PIL.Image":
            module.init()  # all formats
    _warm_up()
    gc.collect()
    gc.freeze()  # memory pages that no collection touches stay shared with the workers
    return REGISTRY.source_hashes()


def _warm_up() -> None:
    """Decode a small file of some modalities, so that workers do not pay for the first use of a decoder."""
    import io

    import numpy as np

    from mmcl_fast.errors import MediaError
    from mmcl_fast.media.decode import decode
    from mmcl_fast.media.spec import default_spec

    image, audio, plane = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(plane, np.ones((8, 8), np.float32))
    try:
        from PIL import Image

        Image.new("RGB", (300, 300)).save(image, "JPEG")
        import soundfile

        soundfile.write(audio, np.zeros(1600, np.float32), 16000, format="WAV")
    except ImportError:
        pass
    for modality, file in (("image", image), ("audio", audio), ("depth", plane)):
        with suppress(MediaError):  # a decoder that does not work fails again on a user's file
            decode(file.getvalue(), modality, default_spec(modality))
