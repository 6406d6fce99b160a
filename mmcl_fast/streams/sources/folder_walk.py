"""Folders and files below a folder: links are followed, without loops; what systems leave behind is passed over."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator

from mmcl_fast.media.system_files import is_system_file

# Called with a kind of ``findings.KINDS``, the path, and what is the matter with it.
Note = Callable[[str, str, str], None]


def list_subfolders(folder: str, note: Note, root: str | None = None) -> list[str]:
    """Sorted names of the folders in ``folder``, linked ones too. ``root``, ``note``: see ``walk_files``."""
    above = _above(folder, root)
    names = []
    for entry in _entries(folder, note):
        if _is_link(entry, above[-1]) and not _may_follow(entry.path, above, note):
            continue
        if _is(entry.is_dir):
            names.append(entry.name)
    return names


def list_files(folder: str, note: Note) -> list[str]:
    """Sorted names of the files in ``folder`` itself."""
    return [entry.name for entry in _entries(folder, note) if _is(entry.is_file)]


def walk_files(folder: str, note: Note, root: str | None = None) -> Iterator[str]:
    """The paths of all files below, each real file once: those that no link leads to, then those that links lead to.

    Folder by folder, names sorted.

    Args:
        note: hears of links that lead nowhere, to a folder above themselves or to what is read already, of folders
            that can't be opened, and of what is passed over.
        root: a folder above ``folder``; a link to it, or to a folder on the way from it, is not followed either.
    """
    above = _above(folder, root)
    folders = {above[-1]}  # real paths of those that are read
    files: list[str] = []  # linked ones
    # Shown path, and the real folders that lead to it: the last one holds the link.
    links: deque[tuple[str, tuple[str, ...]]] = deque()
    yield from _real_files(folder, above, folders, links, note)
    while links:
        path, above = links.popleft()
        if not _may_follow(path, above, note):
            continue
        target = os.path.realpath(path)
        if not os.path.isdir(path):
            files.append(path)
        elif target in folders:
            note("linked-twice", path, f"links to {target}, which is read already")
        else:
            folders.add(target)
            yield from _real_files(path, (*above, target), folders, links, note)
    targets: set[str] = set()
    for path in files:
        target = os.path.realpath(path)
        place, name = os.path.split(target)
        if not os.path.isfile(path):
            note("missing", path, "links to what is neither file nor folder")
        elif target in targets or (place in folders and not _is_hidden(name)):
            note("linked-twice", path, f"links to {target}, which is read already")
        else:
            targets.add(target)
            yield path


def _real_files(
    folder: str, above: tuple[str, ...], folders: set[str], links: deque[tuple[str, tuple[str, ...]]], note: Note
) -> Iterator[str]:
    """The files below that no link leads to; links are put into ``links``, folders into ``folders``."""
    *way, real = above
    pending = [(folder, real)]
    while pending:
        folder, real = pending.pop()
        inner = []
        for entry in _entries(folder, note):
            if _is_link(entry, real):
                links.append((entry.path, (*way, real)))
            elif _is(entry.is_dir):
                path = os.path.join(real, entry.name)
                if path not in folders:
                    folders.add(path)
                    inner.append((entry.path, path))
            elif _is(entry.is_file):
                yield entry.path
            else:
                note("missing", entry.path, "is neither file nor folder")
        pending += reversed(inner)


def _above(folder: str, root: str | None) -> tuple[str, ...]:
    """The real paths of the folders on the way from ``root`` to ``folder``, both among them."""
    way = [os.path.abspath(folder)]
    while root is not None and way[-1] != os.path.abspath(root) and os.path.dirname(way[-1]) != way[-1]:
        way.append(os.path.dirname(way[-1]))
    return tuple(os.path.realpath(path) for path in reversed(way))


def _entries(folder: str, note: Note) -> list[os.DirEntry[str]]:
    """Sorted by name, without those that are passed over."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as fault:
        note("unreadable", folder, fault.strerror or str(fault))
        return []
    kept = []
    for entry in entries:
        if _is_hidden(entry.name):
            note("passed-over", entry.path, entry.name)
        else:
            kept.append(entry)
    return kept


def _may_follow(link: str, above: tuple[str, ...], note: Note) -> bool:
    """Whether a link leads somewhere, and not to a folder that leads to the link."""
    try:
        os.stat(link)
    except OSError as fault:
        note("missing", link, f"links to {_target(link)}: {fault.strerror or fault}")
        return False
    target = os.path.realpath(link)
    inside = target if target.endswith(os.sep) else target + os.sep
    if any(folder == target or folder.startswith(inside) for folder in above):
        note("loop", link, f"links to {target}, a folder above it")
        return False
    return True


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return "nowhere"


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or is_system_file(name)


def _is_link(entry: os.DirEntry[str], real: str) -> bool:
    """``real``: that of the folder of ``entry``. A junction of Windows is a link, though it does not say so."""
    return entry.is_symlink() or (os.name == "nt" and os.path.realpath(entry.path) != os.path.join(real, entry.name))


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:
        return False
