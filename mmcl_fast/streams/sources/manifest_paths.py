"""The files that a manifest names: found however they are spelled, never outside the manifest's folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from mmcl_fast.errors import StreamError
from mmcl_fast.streams.name_forms import normalize_name
from mmcl_fast.streams.validate import FileFault

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://.*")
BACKSLASH = "\\"
_DRIVE = re.compile(r"[A-Za-z]:[\\/].*")


class ManifestFolder:
    """The folder that a manifest's paths are relative to.

    Attributes:
        path: absolute; links in it stay.
        real: without links.
    """

    def __init__(self, folder: Path):
        self.path = Path(os.path.abspath(folder))
        self.real = os.path.realpath(self.path)
        self._entries = cache(_entries)

    def locate(self, name: str, where: str) -> str:
        """The place of the file ``name``, relative to the folder and normal: ``a/../b.png`` is ``b.png``.

        Absolute names, links and ``..`` may lead anywhere inside. The name's Unicode form need not be the file's.
        Raises StreamError, which begins with ``where``.
        """
        place = self._place(name, where)
        if place is None:
            found = self._like(name, normalize_name)
            place = None if found is None else self._place(found, where)
        if place is None:
            raise FileFault("missing", self._missing(name, where))
        if os.path.isdir(self.path / place):
            raise StreamError(f"{where}: path {name!r} is a folder: name a file in it")
        return place

    def _place(self, name: str, where: str) -> str | None:
        """The place; None where nothing is there."""
        shown = os.path.normpath(self.path / name)
        target = os.path.realpath(self.path / name)
        if not _inside(target, self.real):
            raise StreamError(self._outside(name, shown, target, where))
        if not os.path.exists(target):
            return None
        if _inside(shown, str(self.path)) and os.path.realpath(shown) == target:
            return Path(os.path.relpath(shown, self.path)).as_posix()
        return Path(os.path.relpath(target, self.real)).as_posix()  # by way of another name of the folder

    def _outside(self, name: str, shown: str, target: str, where: str) -> str:
        if _inside(shown, str(self.path)):
            return (
                f"{where}: path {name!r} leaves the manifest's folder by a link to {target}: copy the file into "
                f"{self.path} instead (cp -rL copies what links lead to)"
            )
        inner = self._tail(name)
        advice = f"write {inner!r}" if inner else f"move the file into {self.path}"
        return f"{where}: path {name!r} leaves the manifest's folder: {advice}"

    def _missing(self, name: str, where: str) -> str:
        where = f"{where}: path {name!r}"
        if os.path.islink(self.path / name):
            return f"{where} is a link to {os.readlink(self.path / name)}: No such file or directory: restore the file"
        better = self._better(name)
        write = f"write {better!r}" if better else ""
        if _URL.fullmatch(name):
            return f"{where} is a URL: {write or f'put the file into {self.path}'}"
        if _DRIVE.fullmatch(name):
            return f"{where} begins with a drive of Windows: {write or f'write it relative to {self.path}'}"
        if BACKSLASH in name:
            return (
                f"{where} holds {BACKSLASH}: write / for {BACKSLASH}, as in {better or name.replace(BACKSLASH, '/')!r}"
            )
        return f"{where}: No such file or directory: {write or 'restore the file or remove its entry'}"

    def _better(self, name: str) -> str | None:
        """A spelling under which a file is there."""
        plain = unquote(re.sub(r"^[A-Za-z][A-Za-z0-9+.-]+://", "", name)) if _URL.fullmatch(name) else name
        for spelled in (plain, unquote(plain), plain.replace("\\", "/"), unquote(plain).replace("\\", "/")):
            found = self._tail(spelled) or self._like(spelled.strip(), _lenient)
            if found is not None and found != name:
                return found
        return None

    def _tail(self, name: str) -> str | None:
        """The longest end of a path under which a file lies in the folder: the path may be another machine's."""
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        for start in range(len(parts)):
            inner = "/".join(parts[start:])
            if ".." not in parts[start:] and os.path.isfile(self.path / inner):
                return inner
        return None

    def _like(self, name: str, key: Callable[[str], str]) -> str | None:
        """The path of which each part has the same ``key`` as that of ``name``; None where there is none."""
        relative = name[len(str(self.path)) + 1 :] if name.startswith(f"{self.path}{os.sep}") else name
        if os.path.isabs(relative):
            return None
        here = self.path
        for part in Path(relative).parts:
            if part != ".." and not os.path.lexists(here / part):
                part = self._entries(here, key).get(key(part), "")
                if not part:
                    return None
            here = here / part
        return Path(os.path.relpath(here, self.path)).as_posix()


def _entries(folder: Path, key: Callable[[str], str]) -> dict[str, str]:
    """The names in a folder by their ``key``."""
    try:
        return {key(name): name for name in sorted(os.listdir(folder))}
    except OSError:
        return {}


def _lenient(name: str) -> str:
    return normalize_name(name).casefold().strip()


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
