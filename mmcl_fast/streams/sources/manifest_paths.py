"""The files that a manifest names. Several spellings of a path are found, but nothing outside the manifest's folder."""

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
        path: absolute, with the links that lead to it.
        real: the same folder without links.
    """

    def __init__(self, folder: Path):
        self.path = Path(os.path.abspath(folder))
        self.real = os.path.realpath(self.path)
        self._entries = cache(_entries)  # many lines have the same wrong spelling of a folder

    def locate(self, name: str, where: str) -> str:
        """Return the path of the file ``name`` relative to the folder, in normal form: ``a/../b.png`` is ``b.png``.

        Absolute names, links and ``..`` may lead anywhere inside the folder. The name may be in another Unicode form
        than the file's.

        Raises:
            StreamError: there is no such file, or it is outside of the folder. The message begins with ``where``.
        """
        place = self._place(name, where)
        if place is None:
            similar = self._find_similar(name, normalize_name)
            place = None if similar is None else self._place(similar, where)
        if place is None:
            raise FileFault("missing", self._missing_message(name, where))
        if os.path.isdir(self.path / place):
            raise StreamError(f"{where}: path {name!r} is a folder: name a file in it")
        return place

    def _place(self, name: str, where: str) -> str | None:
        """Return the path relative to the folder; None where nothing is there."""
        as_written = os.path.normpath(self.path / name)
        target = os.path.realpath(self.path / name)
        if not _inside(target, self.real):
            raise StreamError(self._outside_message(name, as_written, target, where))
        if not os.path.exists(target):
            return None
        if _inside(as_written, str(self.path)) and os.path.realpath(as_written) == target:
            return Path(os.path.relpath(as_written, self.path)).as_posix()
        # The name goes by way of another name of the folder, such as the target of a link to it.
        return Path(os.path.relpath(target, self.real)).as_posix()

    def _outside_message(self, name: str, as_written: str, target: str, where: str) -> str:
        if _inside(as_written, str(self.path)):
            return (
                f"{where}: path {name!r} leaves the manifest's folder by a link to {target}: copy the file into "
                f"{self.path} instead (cp -rL copies what links lead to)"
            )
        inner = self._longest_tail(name)
        advice = f"write {inner!r}" if inner else f"move the file into {self.path}"
        return f"{where}: path {name!r} leaves the manifest's folder: {advice}"

    def _missing_message(self, name: str, where: str) -> str:
        where = f"{where}: path {name!r}"
        if os.path.islink(self.path / name):
            return f"{where} is a link to {os.readlink(self.path / name)}: No such file or directory: restore the file"
        better = self._correct_spelling(name)
        advice = f"write {better!r}" if better else ""
        if _URL.fullmatch(name):
            return f"{where} is a URL: {advice or f'put the file into {self.path}'}"
        if _DRIVE.fullmatch(name):
            return f"{where} begins with a drive of Windows: {advice or f'write it relative to {self.path}'}"
        if BACKSLASH in name:
            return (
                f"{where} holds {BACKSLASH}: write / for {BACKSLASH}, as in {better or name.replace(BACKSLASH, '/')!r}"
            )
        return f"{where}: No such file or directory: {advice or 'restore the file or remove its entry'}"

    def _correct_spelling(self, name: str) -> str | None:
        """Return a spelling of the path under which a file is there."""
        plain = unquote(re.sub(r"^[A-Za-z][A-Za-z0-9+.-]+://", "", name)) if _URL.fullmatch(name) else name
        for spelled in (plain, unquote(plain), plain.replace("\\", "/"), unquote(plain).replace("\\", "/")):
            similar = self._longest_tail(spelled) or self._find_similar(spelled.strip(), _fold_file_name)
            if similar is not None and similar != name:
                return similar
        return None

    def _longest_tail(self, name: str) -> str | None:
        """Return the longest end of a path that is a file in the folder. The path may be from another machine."""
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        for start in range(len(parts)):
            inner = "/".join(parts[start:])
            if ".." not in parts[start:] and os.path.isfile(self.path / inner):
                return inner
        return None

    def _find_similar(self, name: str, form: Callable[[str], str]) -> str | None:
        """Return the path whose parts have the same ``form`` as the parts of ``name``; None where there is none."""
        # An absolute path in the folder is compared part by part like a relative one.
        relative = name[len(str(self.path)) + 1 :] if name.startswith(f"{self.path}{os.sep}") else name
        if os.path.isabs(relative):
            return None
        path = self.path
        for part in Path(relative).parts:
            if part != ".." and not os.path.lexists(path / part):
                part = self._entries(path, form).get(form(part), "")
                if not part:
                    return None
            path = path / part
        return Path(os.path.relpath(path, self.path)).as_posix()


def _entries(folder: Path, form: Callable[[str], str]) -> dict[str, str]:
    """Return the names in a folder, each by its ``form``."""
    try:
        return {form(name): name for name in sorted(os.listdir(folder))}
    except OSError:
        return {}


def _fold_file_name(name: str) -> str:
    """Return a form that ignores case, Unicode form and spaces at both ends."""
    return normalize_name(name).casefold().strip()


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
