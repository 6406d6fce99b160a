"""The index of a tar: the byte range and the kind of each member, made once and kept as JSON beside the tar."""

from __future__ import annotations

import hashlib
import json
import math
import os
import posixpath
import re
import stat
import tarfile
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, cast

from mmcl_fast.errors import StreamError
from mmcl_fast.media.engines import isolation
from mmcl_fast.media.formats import ENDINGS
from mmcl_fast.media.registry import MODALITIES
from mmcl_fast.media.source import Slice
from mmcl_fast.streams.sources.text_file import decode, parse_json
from mmcl_fast.streams.validate import check_characters
from mmcl_fast.user_cache import user_cache_folder

FORMAT = 3  # format 2 knew more file endings than 1; format 3 also lists members that belong to no sample
_KEY_AND_ENDING = re.compile(r"^((?:.*/)?[^./][^./]*)\.([^/]+)$")  # the key ends at the first dot of a file's name
COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
LARGEST_HEADER = 1 << 20  # bytes of one header, with its long names
LARGEST_ANNOTATION = 1 << 20  # bytes of a .cls or .json
ANNOTATIONS = ("cls", "json")

# [name, offset, size, kind]. The kind of an item is its modality, of a .cls "=" and the class, and of a .json its plain
# fields. It is "" for a member that belongs to no sample.
Member = list[Any]


def read_index(path: Path) -> list[Member]:
    """Return the members of a tar in their order, from its index if there is one for its size and modification time.

    Raises:
        StreamError: the tar cannot be read, or a member is wrong; one line that names both.
    """
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            raise ValueError("not a regular file")
        # An index is used only if it was made of a tar of this size and modification time.
        return _load_or_scan(path, {"format": FORMAT, "size": info.st_size, "mtime_ns": info.st_mtime_ns})
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path too
        raise StreamError(f"{path}: {getattr(error, 'strerror', None) or error}: check the path") from None


def _load_or_scan(path: Path, state: dict[str, int]) -> list[Member]:
    """Return the members from an index of this state, or from the tar, and then write the index."""
    places = _index_places(path)
    for place in places:
        members = _load_index(place, state)
        if members is not None:
            return members
    members = _scan_tar(path)
    for place in places:
        if _store_index(place, {**state, "members": members}):
            break
    return members


def _index_places(path: Path) -> tuple[Path, Path]:
    """Return the paths of the index: beside the tar and, where that can't be written, in the user's cache folder."""
    cache = user_cache_folder() / "shards"
    digest = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
    return path.with_name(f"{path.name}.index.json"), cache / f"{digest}.json"


def _load_index(place: Path, state: dict[str, int]) -> list[Member] | None:
    """Return the members, or None where the index is missing, damaged, or of another state of the tar."""
    try:
        content = json.loads(place.read_bytes())
        if {name: content[name] for name in state} != state:
            return None
        for name, offset, size, kind in content["members"]:
            ranges = type(offset) is int and type(size) is int and 0 <= offset <= offset + size <= state["size"]
            if not (ranges and isinstance(name, str) and isinstance(kind, (dict, str))):
                return None
        return content["members"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _store_index(place: Path, content: dict[str, Any]) -> bool:
    """Write the index. Return whether that was possible."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
    except OSError:
        return False
    try:
        with open(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=True, separators=(",", ":"))
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner may read
        os.replace(temporary, place)  # at once: another process may be reading the index
        return True
    except OSError:
        os.unlink(temporary)
        return False


class _BoundedReader:
    """A file for tarfile, which reads only headers from it. A read of more than ``LARGEST_HEADER`` bytes is refused."""

    def __init__(self, file: BinaryIO):
        self.seek, self.tell, self.file = file.seek, file.tell, file

    def read(self, size: int) -> bytes:
        if not 0 <= size <= LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self.file.read(size)


def _scan_tar(path: Path) -> list[Member]:
    """Read the headers of the whole tar and return its members."""
    with open(path, "rb") as file:
        start = file.read(512)
        for magic, command in COMPRESSED.items():
            if start.startswith(magic):
                raise StreamError(f"{path}: samples of a compressed tar can't be read in place: {command} it first")
        try:
            file.seek(0)
            return _read_members(path, file)
        except (tarfile.TarError, UnicodeError, ValueError) as error:
            raise StreamError(f"{path}: not a valid tar ({error or type(error).__name__}): pack it again") from None


def _read_members(path: Path, file: BinaryIO) -> list[Member]:
    members: dict[str, Member] = {}
    links: dict[str, str] = {}  # name of a member -> the name in the tar that it links to
    size = os.fstat(file.fileno()).st_size
    bounded = cast(BinaryIO, _BoundedReader(file))
    with tarfile.open(fileobj=bounded, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
        while (info := tar.next()) is not None:
            # tarfile would keep all members, which for a large tar takes gigabytes.
            tar.members = []  # type: ignore[attr-defined]
            if info.isdir():
                continue
            name = _plain_name(path, info.name)
            where = f"{path}: member {name!r}"
            if name in members:
                raise StreamError(f"{where} is there twice: give each sample its own key")
            if info.islnk() or info.issym():
                folder = posixpath.dirname(name) if info.issym() else ""
                links[name] = posixpath.normpath(posixpath.join(folder, info.linkname))
                members[name] = [name, 0, 0, ""]
                continue
            if not info.isreg() or info.issparse():
                if _sample_ending(name) is not None:
                    raise StreamError(f"{where} is no plain file (a device or sparse): pack plain files only")
                members[name] = [name, 0, 0, ""]
                continue
            if info.offset_data + info.size > size:
                raise StreamError(f"{where} is cut short: copy the tar again")
            kind = _find_kind(path, file, name, info.offset_data, info.size)
            members[name] = [name, info.offset_data, info.size, kind]
        end = tar.offset
    file.seek(end)
    if end < size and file.read(512).strip(b"\0"):
        raise StreamError(f"{path}: not a valid tar (no header at byte {end}): pack it again")
    for name in links:
        target = members.get(_follow_links(name, links))
        if target is not None and target[2]:
            kind = _find_kind(path, file, name, target[1], target[2])
            members[name] = [name, target[1], target[2], kind]
        elif _sample_ending(name) is not None:
            raise StreamError(
                f"{path}: member {name!r} links to {links[name]!r}, which is no file of the tar: pack plain files only "
                "(tar --dereference --hard-dereference)"
            )
    _recognise_modalities(path, [member for member in members.values() if member[3] is None])
    return list(members.values())


def _plain_name(path: Path, name: str) -> str:
    """Return a member's name without ``./``. Raises StreamError for a name that leaves the tar."""
    where = f"{path}: member {name!r}"
    check_characters(name, where)
    if "\\" in name:
        raise StreamError(
            f"{where} names a place outside the tar where \\ parts folders: pack it with / between folders"
        )
    if name.startswith("/") or ".." in name.split("/"):
        raise StreamError(f"{where} names a place outside the tar: pack relative names without '..'")
    return posixpath.normpath(name)


def _follow_links(name: str, links: dict[str, str]) -> str:
    """Return the name that links lead to in the end; "" where they lead to each other."""
    for _ in range(40):  # as many links as Linux follows in a path
        if name not in links:
            return name
        name = links[name]
    return ""


def split_name(name: str) -> tuple[str, str] | None:
    """Return key and ending of a member by WebDataset's convention. None where there is no key, as in hidden names.

    The key ends at the first dot of the name's last part: ``a/b.depth.png`` is ``a/b`` and ``depth.png``.
    """
    match = _KEY_AND_ENDING.match(name)
    return None if match is None else (match[1], match[2])


def stem_and_ending(name: str) -> tuple[str, str] | None:
    """Return a member's name without its last ending, and that ending with a modality before it, if there is one.

    ``a.b.depth.png`` is ``a.b`` and ``depth.png``. None where the ending is unknown.
    """
    stem, _, last = name.rpartition(".")
    ending = last.lower()
    if not stem or stem.endswith("/"):
        return None
    if ending in ANNOTATIONS:
        return stem, ending
    if ending not in ENDINGS:
        return None
    shorter_stem, _, modality = stem.rpartition(".")
    if shorter_stem and not shorter_stem.endswith("/") and modality.lower() in MODALITIES:
        return shorter_stem, f"{modality.lower()}.{ending}"
    return stem, ending


def _sample_ending(name: str) -> str | None:
    """Return the ending of a member that may be part of a sample; None for hidden names and unknown endings."""
    parts = stem_and_ending(name)
    return None if parts is None or split_name(name) is None else parts[1]


def _find_kind(path: Path, file: BinaryIO, name: str, offset: int, size: int) -> Any:
    """Return the kind of a member (see ``Member``), or None where only its content can show it.

    Pickles are not even read.
    """
    ending = _sample_ending(name)
    if ending is None:
        return ""
    if ending in ANNOTATIONS:
        where = f"{path}: member {name!r}"
        try:
            if size > LARGEST_ANNOTATION:
                raise StreamError(f"{where} has {size} bytes, at most {LARGEST_ANNOTATION} are read: shorten it")
            file.seek(offset)  # tarfile finds its place again by itself
            return (_read_class if ending == "cls" else _read_fields)(file.read(size), where)
        except StreamError:
            if split_name(name) != stem_and_ending(name):  # a key with dots: this may be no annotation of a sample
                return ""
            raise
    modality, _, last = ending.rpartition(".")
    if modality:
        return modality
    allowed = ENDINGS[last]
    return next(iter(allowed)) if len(allowed) == 1 else None


def _recognise_modalities(path: Path, members: list[Member]) -> None:
    """Set the kind of these members by their content, or to the first modality of their ending where that fits none.

    A worker process looks at the content, because a file may crash the process that decodes it.
    """
    if not members:
        return
    jobs = [isolation.Job(Slice(str(path), offset, size, name), None, {}) for name, offset, size, _ in members]
    decoders = isolation.open_decoders(None, 1)
    try:
        for member, outcome in zip(members, decoders.run(jobs), strict=True):
            allowed = ENDINGS[(_sample_ending(member[0]) or "").rpartition(".")[2]]
            modality = outcome.modality
            # Content that fits no allowed modality gets the first one. The check of files then reports it.
            member[3] = modality if modality in allowed else min(allowed, key=MODALITIES.index)
    finally:
        decoders.close()


def _read_class(data: bytes, where: str) -> str:
    text = decode(data, where).strip()
    if len(text.splitlines()) != 1:
        raise StreamError(f"{where}: a class is one line of UTF-8, its name or its number: correct it")
    check_characters(text, where)
    return "=" + text


def _read_fields(data: bytes, where: str) -> dict[str, str]:
    content = parse_json(decode(data, where), where, "correct it")
    if not isinstance(content, dict):
        raise StreamError(f"{where}: not an object but {type(content).__name__}: put the fields into one")
    plain = {name: _plain_value(value) for name, value in content.items() if name}
    # Long values are captions and the like. They would only make the index large.
    short = {name: value for name, value in plain.items() if value is not None and len(value) <= 200}
    for name, value in short.items():
        check_characters(name + value, f"{where}: {name!r}")
    return short


def _plain_value(value: object) -> str | None:
    """Return a string or number as a string, a whole number without a point; None for a value that names no class."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return str(int(value)) if value % 1 == 0 else str(value)
