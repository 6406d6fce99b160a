"""The limits of a server, and of the feedback that it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """Limits of one request, of all requests together, and of one batch.

    Bodies are held in memory: all requests together take up to about twice ``max_bytes * max_concurrent``.

    Attributes:
        max_bytes: size of a request's body.
        max_items: files and lines of text in one request.
        max_concurrent: requests for a prediction at once. A request beyond them gets 503 and the advice to try again.
        max_batch: items of one modality that the learner predicts together; 1 turns batching off.
        wait_ms: time that a decoded item waits for others of its modality, in milliseconds.
        header_seconds: time in which a request's headers have to arrive.
        body_seconds: time in which a request's body has to arrive.
        stop_seconds: time to answer the requests in flight when the server stops.
        max_decode_mb: memory to decode one item, in 10^6 bytes. For this limit and the next two the run's [media]
            limits hold if they are lower; see ``media.engines.isolation.DecodeLimits``.
        max_decode_seconds: processor time to decode one item, in seconds.
        max_decode_wait: time by the clock to decode one item, in seconds.

    Example::

        serve("runs/demo", limits=Limits(max_bytes=8_000_000, max_batch=1))
    """

    max_bytes: int = 32_000_000
    max_items: int = 64
    max_concurrent: int = 64
    max_batch: int = 32
    wait_ms: float = 5.0
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    stop_seconds: int = 30
    max_decode_mb: float = 2000.0
    max_decode_seconds: float = 30.0
    max_decode_wait: float = 60.0


@dataclass(frozen=True)
class Feedback:
    """The folder that keeps files with their right labels, and its limits.

    A request to keep a file is no larger than ``Limits.max_bytes``.

    Attributes:
        folder: a folder for this purpose alone. ``mmcl-fast learn RUN FOLDER`` learns from it.
        new_classes: take labels that the model has not learned, too.
        max_files: number of files in the folder.
        max_bytes: size of all its files together.

    Example::

        serve("runs/demo", feedback=Feedback("feedback"), token=token)
    """

    folder: Path | str
    new_classes: bool = False
    max_files: int = 10_000
    max_bytes: int = 1_000_000_000
