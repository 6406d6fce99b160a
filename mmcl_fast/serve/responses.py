"""Answers that need more than a status and a JSON value."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

DRAIN_SECONDS = 1.0
SAFE_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class EarlyResponse(JSONResponse):
    """An answer to a request whose body was not read to its end. The connection closes after the answer.

    Some clients read the answer only once they have sent the whole body. So the rest of the body is read and dropped,
    for at most ``DRAIN_SECONDS`` and ``max_bytes``.
    """

    def __init__(self, content: Any, status: int, headers: dict[str, str], max_bytes: int) -> None:
        super().__init__(content, status, headers | {"Connection": "close"})
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._drain(receive), DRAIN_SECONDS)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drain(self, receive: Receive) -> None:
        size, more = 0, True
        while more and size < self.max_bytes:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
