"""Where the members of a tar lie: read once, kept as JSON beside the tar, so that a sample is a byte range."""

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

FORMAT = 3  # 2: more endings of names are known; 3: members that are part of no sample are listed
NAME = re.compile(r"^((?:.*/)?[^./][^./]*)\.([^/]+)$")  # the key ends at the first dot of the last part of the name
PACKED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
HEADER = 1 << 20  # bytes of one header, with its long names
NOTE = 1 << 20  # bytes of a .cls or .json
NOTES = ("cls", "json")

# Name, offset, size, and what it is: a modality, "=" and the class of a .cls, the plain fields of a .json, or "" for
# what is part of no sample.
Member = list[Any]


def read_index(path: Path) -> list[Member]:
    """The members of a tar in its order. Raises StreamError naming tar and member."""
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            raise ValueError("not a regular file")
        return _known(path, {"format": FORMAT, "size": info.st_size, "mtime_ns": info.st_mtime_ns})
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path too
        raise StreamError(f"{path}: {getattr(error, 'strerror', None) or error}: check the path") from None


def _known(path: Path, state: dict[str, int]) -> list[Member]:
    """From an index of this state, or from the tar."""
    places = _places(path)
    for place in places:
        members = _load(place, state)
        if members is not None:
            return members
    members = _scan(path)
    for place in places:
        if _store(place, {**state, "members": members}):
            break
    return members


def _places(path: Path) -> tuple[Path, Path]:
    """Beside the tar; where that can't be written, in the user's cache folder."""
    cache = user_cache_folder() / "shards"
    digest = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
    return path.with_name(f"{path.name}.index.json"), cache / f"{digest}.json"


def _load(place: Path, state: dict[str, int]) -> list[Member] | None:
    """The members, or None where the index is missing, damaged or of another state of the tar."""
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


def _store(place: Path, content: dict[str, Any]) -> bool:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
    except OSError:
        return False
    try:
        with open(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=True, separators=(",", ":"))
        os.chmod(temporary, 0o644)
        os.replace(temporary, place)
        return True
    except OSError:
        os.unlink(temporary)
        return False


class _Bounded:
    """A file for tarfile, which reads headers with it and nothing else: none may ask for more than ``HEADER``."""

    def __init__(self, file: BinaryIO):
        self.seek, self.tell, self.file = file.seek, file.tell, file

    def read(self, size: int) -> bytes:
        if not 0 <= size <= HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self.file.read(size)


def _scan(path: Path) -> list[Member]:
    with open(path, "rb") as file:
        start = file.read(512)
        for magic, command in PACKED.items():
            if start.startswith(magic):
                raise StreamError(f"{path}: a compressed tar has no places to read samples from: {command} it first")
        try:
            file.seek(0)
            return _members(path, file)
        except (tarfile.TarError, UnicodeError, ValueError) as error:
            raise StreamError(f"{path}: not a sound tar ({error or type(error).__name__}): pack it again") from None


def _members(path: Path, file: BinaryIO) -> list[Member]:
    found: dict[str, Member] = {}
    links: dict[str, str] = {}  # member -> the name in the tar that it links to
    size = os.fstat(file.fileno()).st_size
    bounded = cast(BinaryIO, _Bounded(file))
    with tarfile.open(fileobj=bounded, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
        while (info := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
            if info.isdir():
                continue
            name = _plain_name(path, info.name)
            where = f"{path}: member {name!r}"
            if name in found:
                raise StreamError(f"{where} is there twice: give each sample its own key")
            if info.islnk() or info.issym():
                folder = posixpath.dirname(name) if info.issym() else ""
                links[name] = posixpath.normpath(posixpath.join(folder, info.linkname))
                found[name] = [name, 0, 0, ""]
                continue
            if not info.isreg() or info.issparse():
                if _part(name) is not None:
                    raise StreamError(f"{where} is no plain file (a device or sparse): pack plain files only")
                found[name] = [name, 0, 0, ""]
                continue
            if info.offset_data + info.size > size:
                raise StreamError(f"{where} is cut short: copy the tar again")
            found[name] = [name, info.offset_data, info.size, _kind(path, file, name, info.offset_data, info.size)]
        end = tar.offset
    file.seek(end)
    if end < size and file.read(512).strip(b"\0"):
        raise StreamError(f"{path}: not a sound tar (no header at byte {end}): pack it again")
    for name in links:
        target = found.get(_followed(name, links))
        if target is not None and target[2]:
            found[name] = [name, target[1], target[2], _kind(path, file, name, target[1], target[2])]
        elif _part(name) is not None:
            raise StreamError(
                f"{path}: member {name!r} links to {links[name]!r}, which is no file of the tar: pack plain files only "
                "(tar --dereference --hard-dereference)"
            )
    _recognise(path, [member for member in found.values() if member[3] is None])
    return list(found.values())


def _plain_name(path: Path, name: str) -> str:
    """A member's name without ``./``."""
    where = f"{path}: member {name!r}"
    check_characters(name, where)
    if "\\" in name:
        raise StreamError(
            f"{where} names a place outside the tar where \\ parts folders: pack it with / between folders"
        )
    if name.startswith("/") or ".." in name.split("/"):
        raise StreamError(f"{where} names a place outside the tar: pack relative names without '..'")
    return posixpath.normpath(name)


def _followed(name: str, links: dict[str, str]) -> str:
    """Where links lead to in the end; "" where they lead to each other."""
    for _ in range(40):
        if name not in links:
            return name
        name = links[name]
    return ""


def split_name(name: str) -> tuple[str, str] | None:
    """Key and ending of a member by WebDataset's convention: the key ends at the first dot of the name's last part.

    None where there is no key, as in hidden names.
    """
    match = NAME.match(name)
    return None if match is None else (match[1], match[2])


def stem_and_ending(name: str) -> tuple[str, str] | None:
    """A member's name without its ending, and the ending: the last one with the modality before it.

    ``a.b.depth.png`` is ``a.b`` and ``depth.png``. None where the ending says nothing of what the member is.
    """
    stem, _, last = name.rpartition(".")
    ending = last.lower()
    if not stem or stem.endswith("/"):
        return None
    if ending in NOTES:
        return stem, ending
    if ending not in ENDINGS:
        return None
    above, _, said = stem.rpartition(".")
    if above and not above.endswith("/") and said.lower() in MODALITIES:
        return above, f"{said.lower()}.{ending}"
    return stem, ending


def _part(name: str) -> str | None:
    """The ending of what may be part of a sample; None for hidden names and unknown endings."""
    parts = stem_and_ending(name)
    return None if parts is None or split_name(name) is None else parts[1]


def _kind(path: Path, file: BinaryIO, name: str, offset: int, size: int) -> Any:
    """What a member is (see ``Member``); None where its content is to tell. Pickles are not even read."""
    ending = _part(name)
    if ending is None:
        return ""
    if ending in NOTES:
        where = f"{path}: member {name!r}"
        try:
            if size > NOTE:
                raise StreamError(f"{where} has {size} bytes, {NOTE} are read: shorten it")
            file.seek(offset)  # tarfile finds its place again by itself
            return (_class if ending == "cls" else _fields)(file.read(size), where)
        except StreamError:
            if split_name(name) != stem_and_ending(name):  # dots in the key: it may belong to something else
                return ""
            raise
    said, _, last = ending.rpartition(".")
    if said:
        return said
    allowed = ENDINGS[last]
    return next(iter(allowed)) if len(allowed) == 1 else None


def _recognise(path: Path, members: list[Member]) -> None:
    """Say what these members are by their content, which a worker looks at: it may be one that kills."""
    if not members:
        return
    jobs = [isolation.Job(Slice(str(path), offset, size, name), None, {}) for name, offset, size, _ in members]
    decoders = isolation.decoders(None, 1)
    try:
        for member, outcome in zip(members, decoders.run(jobs), strict=True):
            allowed = ENDINGS[(_part(member[0]) or "").rpartition(".")[2]]
            kind = outcome.modality
            # What it is not, the check says.
            member[3] = kind if kind in allowed else min(allowed, key=MODALITIES.index)
    finally:
        decoders.close()


def _class(data: bytes, where: str) -> str:
    text = decode(data, where).strip()
    if len(text.splitlines()) != 1:
        raise StreamError(f"{where}: a class is one line of UTF-8, its name or its number: correct it")
    check_characters(text, where)
    return "=" + text


def _fields(data: bytes, where: str) -> dict[str, str]:
    content = parse_json(decode(data, where), where, "correct it")
    if not isinstance(content, dict):
        raise StreamError(f"{where}: not an object but {type(content).__name__}: put the fields into one")
    plain = {name: _plain(value) for name, value in content.items() if name}
    short = {name: value for name, value in plain.items() if value is not None and len(value) <= 200}
    for name, value in short.items():
        check_characters(name + value, f"{where}: {name!r}")
    return short


def _plain(value: object) -> str | None:
    """A string, or a whole number without a point; None for what names no class."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return str(int(value)) if value % 1 == 0 else str(value)
