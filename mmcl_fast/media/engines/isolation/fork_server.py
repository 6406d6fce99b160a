"""A clean process that has imported every decoder and forks workers: each starts in milliseconds.

It decodes nothing that anybody sent, has one thread, and ends with the process that started it.
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
from mmcl_fast.media.engines.isolation.limits import Limits


def main(descriptor: int) -> None:
    """Serve the parent behind a socket until it is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the parent says when it is time
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=descriptor)
    control.setblocking(True)
    try:
        readers = _prepare()
    except Exception as error:
        messages.answer(control, {"error": str(error) if isinstance(error, UserError) else repr(error)})
        return
    children: set[int] = set()
    try:
        messages.answer(control, {"readers": readers})
        while True:
            request, descriptors = messages.requested(control)
            messages.answer(control, _reply(request, descriptors, control, children))
            messages.close(descriptors)
    except messages.Ended:
        pass
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


def _reply(
    request: dict[str, Any], descriptors: list[int], control: socket.socket, children: set[int]
) -> dict[str, Any]:
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
        _become_worker(descriptors[0], Limits(**request["limits"]))
        code = 0
    finally:
        os._exit(code)  # nothing of the parent's is ended a second time


def _become_worker(descriptor: int, limits: Limits) -> None:
    parent = os.getppid()
    sandbox.die_with_parent()
    if os.getppid() != parent:
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # what a library prints on its way down
        os.dup2(nothing, stream)
    os.close(nothing)
    from mmcl_fast.media.engines.isolation import worker

    sock = socket.socket(fileno=descriptor)
    sock.setblocking(True)
    worker.work(sock, limits)


def _prepare() -> dict[str, str]:
    """Import what reads files, own readers too; returns the code of each registered modality's reader."""
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
    gc.freeze()  # pages that no collection touches stay shared
    return REGISTRY.source_hashes()


def _warm_up() -> None:
    """Decode a file of some kinds that was made here, so that no worker pays for the first."""
    import io

    import numpy as np

    from mmcl_fast.errors import MediaError
    from mmcl_fast.media.decode import decode
    from mmcl_fast.media.spec import default_spec

    picture, sound, plane = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(plane, np.ones((8, 8), np.float32))
    try:
        from PIL import Image

        Image.new("RGB", (300, 300)).save(picture, "JPEG")
        import soundfile

        soundfile.write(sound, np.zeros(1600, np.float32), 16000, format="WAV")
    except ImportError:
        pass
    for modality, file in (("image", picture), ("audio", sound), ("depth", plane)):
        with suppress(MediaError):  # it will be said of a file that somebody cares for
            decode(file.getvalue(), modality, default_spec(modality))
