"""Faults of the input. Each message is one line that names the file, line, key or shape and says what to do."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], least: float = 0.5) -> str:
    """What ``word`` may have been meant for, where something known is as like it as ``least``; else all that is."""
    known = list(known)
    close = _like(word, known, least)
    return f"did you mean {close!r}?" if close else f"known: {', '.join(sorted(known))}"


def meant(word: str, known: Iterable[str], least: float = 0.5) -> str:
    """`` (did you mean 'x'?)``, to stand behind ``word`` in a message that says all the same what to do; or nothing."""
    close = _like(word, list(known), least)
    return f" (did you mean {close!r}?)" if close else ""


def _like(word: str, known: list[str], least: float) -> str:
    """The known name that is most like ``word`` whatever its case, or ""."""
    import difflib

    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), names, 1, least)
    return names[close[0]] if close else ""


class UserError(Exception):
    """A fault of the input: one line, says what to do. The command line prints it and exits with 2."""

    def __init__(self, message: object = ""):
        super().__init__(" ".join(line.strip() for line in str(message).splitlines()))


class MediaError(UserError):
    """A file that cannot be decoded as the modality asked for."""


class StreamError(UserError):
    """A folder or manifest that does not describe a stream of tasks."""


class ConfigError(UserError):
    """A configuration with an unknown key, a wrong type or a value out of range."""


class RunError(UserError):
    """A run folder that cannot be written, resumed or read."""


class EncoderError(UserError):
    """An encoder that cannot be loaded, or asked for a modality it does not have."""
