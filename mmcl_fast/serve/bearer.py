"""The bearer token that proves who may write. It comes from a file or the environment, never from an option."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from pathlib import Path

from mmcl_fast.errors import UserError

VARIABLE = "MMCL_FAST_TOKEN"
MIN_LENGTH, MAX_LENGTH = 16, 1000
TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")  # RFC 6750, section 2.1
ADVICE = "make one with: openssl rand -hex 32"


class BearerToken:
    """A token that requests are compared with. Only its digest is kept, so that no message can show it.

    Args:
        text: the token.
        where: begins the message of an error.

    Raises:
        UserError: the token is too short, too long, or has characters that no header can carry.
    """

    def __init__(self, text: str, where: str = "token") -> None:
        if not MIN_LENGTH <= len(text) <= MAX_LENGTH:
            raise UserError(f"{where}: a token has {MIN_LENGTH} to {MAX_LENGTH} characters, not {len(text)}: {ADVICE}")
        if not TOKEN.fullmatch(text):
            raise UserError(f"{where}: a token has letters, digits and -._~+/= alone, on one line: {ADVICE}")
        self._digest = hashlib.sha256(text.encode()).digest()

    def accepts(self, authorization: list[bytes]) -> bool:
        """Return whether the one ``Authorization`` header of a request carries the token."""
        if len(authorization) != 1:
            return False
        scheme, _, given = authorization[0].partition(b" ")
        # Digests have one length, so the time tells nothing of the token's own.
        same = hmac.compare_digest(hashlib.sha256(given.strip()).digest(), self._digest)
        return same and scheme.lower() == b"bearer"


def read_token(file: Path | None) -> str | None:
    """Return the token in a file, or else in the variable MMCL_FAST_TOKEN; None where there is neither.

    The variable is removed, so that no process that this one starts inherits it.

    Raises:
        UserError: the file can't be read, others may read it, or it holds no valid token.
    """
    given = os.environ.pop(VARIABLE, None)
    if file is None:
        if given is not None:
            BearerToken(given, VARIABLE)
        return given
    try:
        with open(file, "rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            data = opened.read(MAX_LENGTH + 100)
    except OSError as fault:
        raise UserError(f"--token-file {file}: {fault.strerror or fault}: name a file that holds the token") from None
    if os.name == "posix" and mode & 0o004:
        raise UserError(f"--token-file {file}: every user of this machine can read it: chmod 600 {file}")
    text = data.decode("latin-1").strip()
    BearerToken(text, f"--token-file {file}")
    return text
