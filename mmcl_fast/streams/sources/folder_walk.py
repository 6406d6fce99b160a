"""The folders and files below a folder. Links are followed without loops; hidden and system files are passed over."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator

from mmcl_fast.media.system_files import is_system_file

# Called with a kind of ``findings.KINDS``, the path, and what is wrong with it.
ReportProblem = Callable[[str, str, str], None]
# Links that were not followed yet: a link's path, and the real folders that lead to it. The last one holds the link.
Links = deque[tuple[str, tuple[str, ...]]]


def list_subfolders(folder: str, report: ReportProblem, root: str | None = None) -> list[str]:
    """Return the sorted names of the folders in ``folder``, linked ones too.

    ``report``, ``root``: as in ``walk_files``.
    """
    above = _real_folders_between(folder, root)
    names = []
    for entry in _entries(folder, report):
        if _is_link(entry, above[-1]) and not _may_follow(entry.path, above, report):
            continue
        if _is(entry.is_dir):
            names.append(entry.name)
    return names


def list_files(folder: str, report: ReportProblem) -> list[str]:
    """Return the sorted names of the files in ``folder`` itself."""
    return [entry.name for entry in _entries(folder, report) if _is(entry.is_file)]


def walk_files(folder: str, report: ReportProblem, root: str | None = None) -> Iterator[str]:
    """Yield the paths of all files below a folder, each real file once. Files without a link come before linked ones.

    The order is folder by folder, with sorted names.

    Args:
        report: called for a link that leads nowhere, to a folder above itself, or to something that was read already.
            It is also called for a folder that can't be opened, and for each file or folder that is passed over.
        root: a folder above ``folder``. A link to it, or to a folder between the two, is not followed either.
    """
    above = _real_folders_between(folder, root)
    folders = {above[-1]}  # real paths of the folders that were read
    linked_files: list[str] = []
    links: Links = deque()
    yield from _real_files(folder, above, folders, links, report)
    while links:
        path, above = links.popleft()
        if not _may_follow(path, above, report):
            continue
        target = os.path.realpath(path)
        if not os.path.isdir(path):
            linked_files.append(path)
        elif target in folders:
            report("linked-twice", path, f"links to {target}, which is read already")
        else:
            folders.add(target)
            yield from _real_files(path, (*above, target), folders, links, report)
    targets: set[str] = set()
    for path in linked_files:
        target = os.path.realpath(path)
        place, name = os.path.split(target)
        if not os.path.isfile(path):
            report("missing", path, "links to something that is neither file nor folder")
        elif target in targets or (place in folders and not _is_hidden(name)):
            report("linked-twice", path, f"links to {target}, which is read already")
        else:
            targets.add(target)
            yield path


def _real_files(
    folder: str, above: tuple[str, ...], folders: set[str], links: Links, report: ReportProblem
) -> Iterator[str]:
    """Yield the files below a folder that no link leads to. Links are added to ``links``, folders to ``folders``."""
    *outer, real = above
    pending = [(folder, real)]
    while pending:
        folder, real = pending.pop()
        inner = []
        for entry in _entries(folder, report):
            if _is_link(entry, real):
                links.append((entry.path, (*outer, real)))
            elif _is(entry.is_dir):
                path = os.path.join(real, entry.name)
                if path not in folders:
                    folders.add(path)
                    inner.append((entry.path, path))
            elif _is(entry.is_file):
                yield entry.path
            else:
                report("missing", entry.path, "is neither file nor folder")
        pending += reversed(inner)


def _real_folders_between(folder: str, root: str | None) -> tuple[str, ...]:
    """Return the real paths of ``root``, of the folders between it and ``folder``, and of ``folder``, in this order."""
    upwards = [os.path.abspath(folder)]
    while root is not None and upwards[-1] != os.path.abspath(root) and os.path.dirname(upwards[-1]) != upwards[-1]:
        upwards.append(os.path.dirname(upwards[-1]))
    return tuple(os.path.realpath(path) for path in reversed(upwards))


def _entries(folder: str, report: ReportProblem) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, sorted by name, without the ones that are passed over."""
    try:
        with os.scandir(folder) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
    except OSError as fault:
        report("unreadable", folder, fault.strerror or str(fault))
        return []
    visible = []
    for entry in entries:
        if _is_hidden(entry.name):
            report("passed-over", entry.path, entry.name)
        else:
            visible.append(entry)
    return visible


def _may_follow(link: str, above: tuple[str, ...], report: ReportProblem) -> bool:
    """Whether a link leads somewhere, and not to a folder that contains the link."""
    try:
        os.stat(link)
    except OSError as fault:
        report("missing", link, f"links to {_target(link)}: {fault.strerror or fault}")
        return False
    target = os.path.realpath(link)
    prefix = target if target.endswith(os.sep) else target + os.sep
    if any(folder == target or folder.startswith(prefix) for folder in above):
        report("loop", link, f"links to {target}, a folder above it")
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
    """Whether an entry is a link. ``real``: the real path of the entry's folder."""
    # On Windows a junction is a link too, but is_symlink() is False for it.
    return entry.is_symlink() or (os.name == "nt" and os.path.realpath(entry.path) != os.path.join(real, entry.name))


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:
        return False
