"""The samples of one tar (a shard), and the members that belong to no sample."""

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

# Why a member belongs to no sample -> the kind of the finding, and the end of its message.
_REASONS = {
    "dots": (
        "left-out",
        "belongs to no sample, because its key ends at the first dot: add a .cls with the very same key, or remove the "
        "dots",
    ),
    "unknown": ("left-out", "belongs to no sample: files with this ending are not read"),
    "alone": ("left-out", "belongs to no sample: no item has its key"),
    "caption": ("passed-over", "is the caption of another item and is left out"),
    "hidden": ("passed-over", "is hidden and is passed over"),
}


class UnusedMembers:
    """The members of all tars that belong to no sample, grouped by reason and ending."""

    def __init__(self) -> None:
        self._members: dict[tuple[str, str], list[str]] = {}  # (reason, ending) -> descriptions of the members

    def add(self, reason: str, tar: str, name: str) -> None:
        """Add a member. ``reason``: a key of ``_REASONS``."""
        last = posixpath.basename(name)
        ending = f".{last.rpartition('.')[2]}" if "." in last and reason != "hidden" else ""
        self._members.setdefault((reason, ending), []).append(f"{tar}: member {name!r}")

    def add_findings(self, findings: Findings) -> None:
        """Add a finding for each reason and ending: the first member, and how many there are."""
        for (reason, ending), members in self._members.items():
            more = f" (and {len(members) - 1} more{f' of {ending}' if ending else ''})" if members[1:] else ""
            kind, advice = _REASONS[reason]
            if reason == "unknown" and ending[1:].lower() in UNREAD_ENDINGS:
                advice = f"belongs to no sample: {UNREAD_ENDINGS[ending[1:].lower()]}"
            findings.add(kind, f"{members[0]}{more} {advice}", others=tuple(members[1:]))


class TarShard:
    """One tar, with its members grouped by their key.

    Args:
        file: the tar.
        name: the tar's path relative to the stream's root. Sample keys begin with it.
        split: the split of samples whose .json has none; None where nothing says it.
        label: the field of a .json that holds the class.

    Raises:
        StreamError: the tar can't be read.
    """

    def __init__(self, file: Path, name: str, split: str | None, label: str):
        self.file, self.name, self.split, self.label = file, name, split, label
        self._groups: dict[str, list[Member]] = {}
        self._dotted_keys: set[str] = set()
        self._unused: list[tuple[str, str]] = []  # (reason, name of the member)
        self._unread: dict[str, str] = {}  # key -> its first member with an ending that is not read
        for member in read_index(file):
            self._add_member(member)

    def _add_member(self, member: Member) -> None:
        name, kind = member[0], member[3]
        # The key by WebDataset's convention ends at the first dot. The name may also be a key with dots.
        at_first_dot, at_last_dot = split_name(name), stem_and_ending(name)
        if at_first_dot is None:
            parts = name.split("/")
            hidden = any(part.startswith(".") or is_system_file(part) for part in parts)
            self._unused.append(("hidden" if hidden else "unknown", name))
        elif kind == "" or at_last_dot is None:
            self._unused.append(("unknown", name))
            self._unread.setdefault(at_first_dot[0], name)
        else:
            key = at_last_dot[0]
            if key != at_first_dot[0]:
                self._dotted_keys.add(key)
            self._groups.setdefault(key, []).append(member)

    def read_samples(self, findings: Findings, unused: UnusedMembers) -> list[Sample]:
        """Return all samples. Add errors to ``findings``, and members that belong to no sample to ``unused``."""
        samples: list[Sample] = []
        findings_before = len(findings)
        for key, members in self._groups.items():
            if key in self._dotted_keys and not self._has_item_and_class(members):
                self._unused += [("dots", member[0]) for member in members]
                continue
            try:
                samples += self._samples_of_key(key, members)
            except StreamError as error:
                findings.add(getattr(error, "kind", "row"), error, path=str(self.file), key=f"{self.name}/{key}")
        for reason, name in self._unused:
            unused.add(reason, str(self.file), name)
        if not samples and len(findings) == findings_before:
            findings.add("row", self._no_sample_message(), path=str(self.file))
        return samples

    def _no_sample_message(self) -> str:
        if not self._groups and not self._unused:
            return f"{self.file}: holds no sample, because the tar is empty: pack it again or remove it"
        return f"{self.file}: holds no sample: expected members such as 0001.jpg with 0001.cls or 0001.json"

    def _has_item_and_class(self, members: list[Member]) -> bool:
        kinds = [member[3] for member in members]
        has_class = any(
            kind.get(self.label, "").strip() if isinstance(kind, dict) else kind.startswith("=") for kind in kinds
        )
        return has_class and any(isinstance(kind, str) and not kind.startswith("=") for kind in kinds)

    def _samples_of_key(self, key: str, members: list[Member]) -> Iterator[Sample]:
        where = f"{self.file}: sample {key!r}"
        fields, items, captions = _sort_members(members, where)
        label = fields.setdefault("", fields.get(self.label, "").strip())
        self._unused += [("caption", caption[0]) for caption in captions]
        if not items and label:
            raise StreamError(f"{where} has a class but no item: {self._advice_without_item(key)}")
        if not items:
            self._unused += [("alone", member[0]) for member in members]
        if items and not label:
            hint = ", because its .txt is a caption" if any(caption[3] == "text" for caption in captions) else ""
            raise StreamError(
                f"{where} has no class{hint}: add a .cls with its name or number, or {self.label!r} to its .json"
            )
        for modality, member in items.items():
            split = fields.get("split", self.split)
            if split is None:
                raise StreamError(
                    f"{self.file}: neither its name nor the .json of {key!r} says the split: put train, val "
                    "or test into the tar's name or folder, or give the tars of each split"
                )
            check_split(split, where)
            byte_range = Slice(str(self.file), member[1], member[2], member[0])
            yield Sample(modality, label, byte_range, None, split, f"{self.name}/{member[0]}")

    def _advice_without_item(self, key: str) -> str:
        name = self._unread.get(key, "")
        refusal = UNREAD_ENDINGS.get(name.rpartition(".")[2].lower())
        if refusal:
            return f"{name} is {refusal}"
        return "add a member such as .jpg, .wav or .txt" + (f", for {name} is not read" if name else "")


def _sort_members(members: list[Member], where: str) -> tuple[dict[str, str], dict[str, Member], list[Member]]:
    """Return what the members of one key are: the fields, modality -> the member with the item, and the captions.

    The field "" is the class of a .cls.
    """
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
        modality = fields["modality"]
        check_modality(modality, where)
        if len(items) > 1 and modality not in items:
            raise StreamError(
                f"{where} has items of {', '.join(items)} and the modality {modality!r} in its .json: correct it"
            )
        item = items.get(modality) or next(iter(items.values()))
        captions = [member for member in items.values() if member is not item]
        items = {modality: item}
    elif len(items) > 1 and "text" in items:
        captions = [items.pop("text")]
    return fields, items, captions
