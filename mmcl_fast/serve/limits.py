"""What a server allows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What one request, all of them together, and one batch may take. Bodies are held in memory, so all of them
    together take up to about twice ``max_bytes * max_concurrent``.

    Attributes:
        max_bytes: of a request's body.
        max_items: of one request, files and lines of text together.
        max_concurrent: requests for a prediction at once; further ones are told to come again.
        max_batch: items of one modality that the learner sees together; 1 turns batching off.
        wait_ms: how long an item that is decoded waits for others of its modality.
        header_seconds: in which a request's headers have to come.
        body_seconds: in which its body has to come.
        stop_seconds: given to requests in flight when the server is told to stop.
        max_decode_mb, max_decode_seconds, max_decode_wait: of one item, where the run's [media] allows more; see
            ``media.isolation.Limits``.
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
