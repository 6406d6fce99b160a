"""Where the members of a tar lie: read once, kept as JSON beside the tar, so that a sample is a byte range."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import tarfile
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, cast

from mmcl_fast.errors import MediaError, StreamError
from mmcl_fast.media.formats import ENDINGS
from mmcl_fast.media.sniff import sniff
from mmcl_fast.media.source import Slice
from mmcl_fast.media.spec import MODALITIES
from mmcl_fast.streams.validate import check_words
from mmcl_fast.user_cache import user_cache

FORMAT = 2  # 2: more endings of names are known
NAME = re.compile(r"^((?:.*/)?[^./][^./]*)\.([^/]+)$")  # the key ends at the first dot of the last part of the name
PACKED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
HEADER = 1 << 20  # bytes of one header, with its long names
NOTE = 1 << 20  # bytes of a .cls or .json

# name, offset, size, and what it is: a modality, "=" and the class of a .cls, or the plain fields of a .json
Member = list[Any]


def read_index(path: Path) -> list[Member]:
    """The members that a sample can be made of, in the tar's order. Raises StreamError naming tar and member."""
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
    cache = user_cache() / "shards"
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
    size = os.fstat(file.fileno()).st_size
    bounded = cast(BinaryIO, _Bounded(file))
    with tarfile.open(fileobj=bounded, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
        while (info := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
            if info.isdir():
                continue
            name = info.name.removeprefix("./")
            where = f"{path}: member {name!r}"
            check_words(name, where)
            if not info.isreg() or info.issparse():
                raise StreamError(f"{where} is no plain file (a link, a device or sparse): pack plain files only")
            if name.startswith("/") or "\\" in name or ".." in name.split("/"):
                raise StreamError(f"{where} names a place outside the tar: pack relative names without '..'")
            if info.offset_data + info.size > size:
                raise StreamError(f"{where} is cut short: copy the tar again")
            kind = _kind(path, file, name, info)
            if kind is None:
                continue
            if name in found:
                raise StreamError(f"{where} is there twice: give each sample its own key")
            found[name] = [name, info.offset_data, info.size, kind]
        end = tar.offset
    file.seek(end)
    if end < size and file.read(512).strip(b"\0"):
        raise StreamError(f"{path}: not a sound tar (no header at byte {end}): pack it again")
    return list(found.values())


def _kind(path: Path, file: BinaryIO, name: str, info: tarfile.TarInfo) -> Any:
    """What a member is (see ``Member``); None: no part of a sample. Pickles are not even read."""
    match = NAME.match(name)
    if match is None:
        return None
    ending = match[2].lower()
    if ending in ("cls", "json"):
        if info.size > NOTE:
            raise StreamError(f"{path}: member {name!r} has {info.size} bytes, {NOTE} are read: shorten it")
        file.seek(info.offset_data)  # tarfile finds its place again by itself
        data = file.read(info.size)
        return (_class if ending == "cls" else _fields)(data, f"{path}: member {name!r}")
    said, _, last = ending.rpartition(".")
    if last not in ENDINGS or said not in ("", *MODALITIES):
        return None
    if said:
        return said
    allowed = ENDINGS[last]
    if len(allowed) == 1:
        return next(iter(allowed))
    try:
        kind = sniff(Slice(str(path), info.offset_data, info.size, name))
    except MediaError:
        kind = ""
    return kind if kind in allowed else min(allowed, key=MODALITIES.index)  # what it is not, the check says


def _class(data: bytes, where: str) -> str:
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        text = ""
    if not text or "\n" in text:
        raise StreamError(f"{where}: a class is one line of UTF-8, its name or its number: correct it")
    check_words(text, where)
    return "=" + text


def _fields(data: bytes, where: str) -> dict[str, str]:
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise StreamError(f"{where}: not JSON ({error}): correct it") from None
    if not isinstance(content, dict):
        raise StreamError(f"{where}: not an object but {type(content).__name__}: put the fields into one")
    plain = {
        name: str(value)
        for name, value in content.items()
        if name and isinstance(value, (str, int)) and not isinstance(value, bool) and len(str(value)) <= 200
    }
    for name, value in plain.items():
        check_words(name + value, f"{where}: {name!r}")
    return plain
