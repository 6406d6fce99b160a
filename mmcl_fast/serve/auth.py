"""The middleware that answers 401 to a request without the bearer token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmcl_fast.serve.bearer import BearerToken
from mmcl_fast.serve.responses import SAFE_HEADERS, EarlyResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class TokenMiddleware:
    """Lets a request pass that carries the token, or asks for an address that needs none.

    Args:
        app: the application.
        token: the token.
        guarded: the paths that need it; None: all except ``open``.
        open: paths that never need it.
        max_bytes: bytes of a refused body that are read and dropped.
    """

    def __init__(
        self, app: ASGIApp, token: BearerToken, guarded: frozenset[str] | None, open: frozenset[str], max_bytes: int
    ) -> None:
        self.app, self.token, self.guarded, self.open, self.max_bytes = app, token, guarded, open, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._needs_token(scope["path"]):
            given = [value for name, value in scope["headers"] if name == b"authorization"]
            if not self.token.accepts(given):
                line = "no valid token: send the header 'Authorization: Bearer TOKEN' with the server's token"
                headers = SAFE_HEADERS | {"WWW-Authenticate": "Bearer"}
                return await EarlyResponse({"error": line}, 401, headers, self.max_bytes)(scope, receive, send)
        await self.app(scope, receive, send)

    def _needs_token(self, path: str) -> bool:
        return path not in self.open if self.guarded is None else path in self.guarded
