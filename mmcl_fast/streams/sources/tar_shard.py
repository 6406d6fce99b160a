"""The samples of one tar, and what of it is part of no sample."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from pathlib import Path

from mmcl_fast.errors import StreamError
from mmcl_fast.media.formats import UNREAD_ENDINGS
from mmcl_fast.media.source import Slice
from mmcl_fast.media.system_files import is_system_file
from mmcl_fast.streams.findings import Findings
from mmcl_fast.streams.sample import Sample
from mmcl_fast.streams.sources.tar_index import Member, read_index, split_name, stem_and_ending
from mmcl_fast.streams.validate import check_modality, check_split

_ADVICE = {
    "dots": "is part of no sample, for its key ends at the first dot: put a .cls of the very same name beside it, or "
    "take the dots out",
    "unknown": "is part of no sample: such endings are not read",
    "alone": "is part of no sample: there is no item of its key",
    "caption": "is the caption of another item and is left out",
    "hidden": "is hidden and is passed over",
}
_KIND = {"dots": "left-out", "unknown": "left-out", "alone": "left-out"}  # of the findings; the others harm nothing


class UnusedMembers:
    """The members of all tars that are part of no sample."""

    def __init__(self) -> None:
        self._members: dict[tuple[str, str], list[str]] = {}  # by why and ending

    def add(self, why: str, where: str, name: str) -> None:
        """``why``: a key of ``_ADVICE``; ``where``: the tar."""
        last = posixpath.basename(name)
        ending = f".{last.rpartition('.')[2]}" if "." in last and why != "hidden" else ""
        self._members.setdefault((why, ending), []).append(f"{where}: member {name!r}")

    def tell(self, findings: Findings) -> None:
        """A finding for each reason and ending: the first member, and how many there are."""
        for (why, ending), members in self._members.items():
            more = f" (and {len(members) - 1} more{f' of {ending}' if ending else ''})" if members[1:] else ""
            refusal = UNREAD_ENDINGS.get(ending[1:].lower(), "") if why == "unknown" else ""
            advice = f"is part of no sample: {refusal}" if refusal else _ADVICE[why]
            findings.add(_KIND.get(why, "passed-over"), f"{members[0]}{more} {advice}", others=tuple(members[1:]))


class TarShard:
    """A tar, its members by key.

    Args:
        name: of the tar, relative to the stream's root: begins the samples' keys.
        split: of samples whose .json tells none; or None.
        label: the field of a .json that holds the class.

    Raises:
        StreamError: the tar can't be read.
    """

    def __init__(self, file: Path, name: str, split: str | None, label: str):
        self.file, self.name, self.split, self.label = file, name, split, label
        self._groups: dict[str, list[Member]] = {}
        self._dotted: set[str] = set()  # keys that hold dots
        self._unused: list[tuple[str, str]] = []  # why, and the member's name
        self._unread: dict[str, str] = {}  # key -> its first member of an ending that is not read
        for member in read_index(file):
            self._sort_in(member)

    def _sort_in(self, member: Member) -> None:
        name = member[0]
        by_convention, by_last = split_name(name), stem_and_ending(name)
        if by_convention is None:
            parts = name.split("/")
            hidden = any(part.startswith(".") or is_system_file(part) for part in parts)
            self._unused.append(("hidden" if hidden else "unknown", name))
        elif member[3] == "" or by_last is None:
            self._unused.append(("unknown", name))
            self._unread.setdefault(by_convention[0], name)
        else:
            key = by_last[0]
            if key != by_convention[0]:
                self._dotted.add(key)
            self._groups.setdefault(key, []).append(member)

    def samples(self, findings: Findings, left_out: UnusedMembers) -> list[Sample]:
        """All samples; faults go into ``findings``, members that are part of none into ``left_out``."""
        out: list[Sample] = []
        faults = len(findings)
        for key, members in self._groups.items():
            if key in self._dotted and not self._is_sample(members):
                self._unused += [("dots", member[0]) for member in members]
                continue
            try:
                out += self._of_key(key, members)
            except StreamError as error:
                findings.add(getattr(error, "kind", "row"), error, path=str(self.file), key=f"{self.name}/{key}")
        for why, name in self._unused:
            left_out.add(why, str(self.file), name)
        if not out and len(findings) == faults:
            findings.add("row", self._empty(), path=str(self.file))
        return out

    def _empty(self) -> str:
        if not self._groups and not self._unused:
            return f"{self.file}: holds no sample, for the tar is empty: pack it again or remove it"
        return f"{self.file}: holds no sample: expected members such as 0001.jpg with 0001.cls or 0001.json"

    def _is_sample(self, members: list[Member]) -> bool:
        """Whether there are an item and its class."""
        kinds = [member[3] for member in members]
        has_class = any(
            kind.get(self.label, "").strip() if isinstance(kind, dict) else kind.startswith("=") for kind in kinds
        )
        return has_class and any(_is_item(kind) for kind in kinds)

    def _of_key(self, key: str, members: list[Member]) -> Iterator[Sample]:
        where = f"{self.file}: sample {key!r}"
        fields, items, captions = _parts(members, where)
        label = fields.setdefault("", fields.get(self.label, "").strip())
        self._unused += [("caption", caption[0]) for caption in captions]
        if not items and label:
            raise StreamError(f"{where} has a class but no item: {self._instead(key)}")
        if not items:
            self._unused += [("alone", member[0]) for member in members]
        if items and not label:
            hint = ", for its .txt is a caption" if any(caption[3] == "text" for caption in captions) else ""
            raise StreamError(
                f"{where} has no class{hint}: add a .cls with its name or number, or {self.label!r} to its .json"
            )
        for modality, member in items.items():
            split = fields.get("split", self.split)
            if split is None:
                raise StreamError(
                    f"{self.file}: neither its name nor the .json of {key!r} tells the split: put train, val "
                    "or test into the tar's name or folder, or give the tars of each split"
                )
            check_split(split, where)
            source = Slice(str(self.file), member[1], member[2], member[0])
            yield Sample(modality, label, source, None, split, f"{self.name}/{member[0]}")

    def _instead(self, key: str) -> str:
        """What to do about a key without an item."""
        name = self._unread.get(key, "")
        refusal = UNREAD_ENDINGS.get(name.rpartition(".")[2].lower())
        if refusal:
            return f"{name} is {refusal}"
        return "add a member such as .jpg, .wav or .txt" + (f", for {name} is not read" if name else "")


def _is_item(kind: object) -> bool:
    return isinstance(kind, str) and not kind.startswith("=")


def _parts(members: list[Member], where: str) -> tuple[dict[str, str], dict[str, Member], list[Member]]:
    """Of one key: the fields, of which "" is the class; the item of each modality; captions."""
    fields: dict[str, str] = {}
    items: dict[str, Member] = {}
    captions: list[Member] = []
    for member in members:
        kind = member[3]
        if isinstance(kind, dict):
            fields |= kind
        elif kind.startswith("="):
            fields[""] = kind[1:]
        elif kind in items:
            raise StreamError(f"{where} has two items of {kind}, {items[kind][0]} and {member[0]}: keep one")
        else:
            items[kind] = member
    if "modality" in fields and items:
        said = fields["modality"]
        check_modality(said, where)
        if len(items) > 1 and said not in items:
            raise StreamError(
                f"{where} has items of {', '.join(items)} and the modality {said!r} in its .json: correct it"
            )
        chosen = items.get(said) or next(iter(items.values()))
        captions = [member for member in items.values() if member is not chosen]
        items = {said: chosen}
    elif len(items) > 1 and "text" in items:
        captions = [items.pop("text")]
    return fields, items, captions
