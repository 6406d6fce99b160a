"""Errors in what a user gives. Each message is one line that says what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable


def suggest(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Return ``did you mean 'x'?`` for the known name most similar to ``word``, or a list of all known names.

    ``cutoff`` is the least similarity that counts, from 0 to 1, as in ``difflib.get_close_matches``.

    Example:
        ``suggest("imge", ["image", "audio"])`` is ``"did you mean 'image'?"``, and
        ``suggest("zzz", ["image", "audio"])`` is ``"known: audio, image"``.
    """
    known = list(known)
    similar = _most_similar(word, known, cutoff)
    return f"did you mean {similar!r}?" if similar else f"known: {', '.join(sorted(known))}"


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Return `` (did you mean 'x'?)``, or nothing where no known name is similar to ``word``.

    It goes right behind ``word`` in a message that says what to do in any case. ``cutoff``: as in ``suggest``.
    """
    similar = _most_similar(word, list(known), cutoff)
    return f" (did you mean {similar!r}?)" if similar else ""


def _most_similar(word: str, known: list[str], cutoff: float) -> str:
    """Return the known name most similar to ``word``, ignoring case; "" where none reaches ``cutoff``."""
    import difflib

    names = {name.lower(): name for name in known}
    similar = difflib.get_close_matches(word.lower(), names, 1, cutoff)
    return names[similar[0]] if similar else ""


class UserError(Exception):
    """An error in what a user gave. The command line prints its one line and exits with code 2."""

    def __init__(self, message: object = ""):
        # Messages of libraries that are quoted in ours may hold line ends.
        super().__init__(" ".join(line.strip() for line in str(message).splitlines()))


class MediaError(UserError):
    """A file that does not decode as its modality."""


class StreamError(UserError):
    """A folder, manifest, table or tar that no stream of tasks can be made from."""


class ConfigError(UserError):
    """A config with an unknown key, a wrong type or a value out of range."""


class RunError(UserError):
    """A run folder that cannot be written, resumed or read."""


class EncoderError(UserError):
    """An encoder that cannot be loaded, or that does not have the modality asked for."""
