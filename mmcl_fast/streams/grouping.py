"""Groups of samples that stay on one side of a split: takes of one recording, crops of one picture, equal content."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmcl_fast.errors import ConfigError, did_you_mean
from mmcl_fast.media.source import size_of
from mmcl_fast.streams.equal_content import group_equal_content
from mmcl_fast.streams.name_forms import normalize_name
from mmcl_fast.streams.path_patterns import match_paths
from mmcl_fast.streams.sample import SPLITS, Sample

RULES = ("column", "regex", "duplicates")
# Takes samples, returns lists of positions of samples that resemble each other.
FindSimilar = Callable[[Sequence[Sample]], Iterable[Sequence[int]]]


@dataclass(frozen=True)
class Rule:
    """The meaning of ``stream.group``.

    Attributes:
        kind: one of ``RULES``; empty: the data name the groups.
        value: the column, or the regular expression.
    """

    kind: str = ""
    value: str = ""

    @property
    def column(self) -> str:
        """The column to read groups from; empty for other rules."""
        return self.value if self.kind == "column" else ""


def parse_rule(text: str) -> Rule:
    """Return the rule that a value of ``stream.group`` means.

    Raises:
        ConfigError: it is none, or its regular expression is not valid.

    Example:
        ``parse_rule("column:speaker")`` is ``Rule("column", "speaker")``.
    """
    if not text:
        return Rule()
    kind, colon, value = text.partition(":")
    if kind not in RULES or (kind == "duplicates") == bool(colon) or (colon and not value):
        raise ConfigError(
            f"stream.group: {text!r} is no rule{did_you_mean(kind, RULES)}; give column:NAME, regex:PATTERN, "
            "duplicates, or leave it empty"
        )
    if kind == "regex":
        try:
            re.compile(value)
        except (re.error, OverflowError, RecursionError) as fault:
            raise ConfigError(f"stream.group: {value!r} is no regular expression ({fault}); correct it") from None
    return Rule(kind, value)


@dataclass(frozen=True)
class Grouping:
    """The way in which the groups of a stream are found.

    Attributes:
        rule: as ``stream.group`` says.
        equal_content: samples of equal content are one group. This reads files of equal size.
        find_similar: finds samples that resemble each other; None: these are not looked for.
        names: sample key -> group, as a run has found them; None: they are looked for.
        sides: group -> the split on which it already is, for groups that a run has learned.
        learned: samples that a run has learned. New ones that resemble one get its group, ``like_old`` of it.
    """

    rule: Rule = Rule()
    equal_content: bool = False
    find_similar: FindSimilar | None = None
    names: Mapping[str, str] | None = None
    sides: Mapping[str, str] = field(default_factory=dict)
    learned: Sequence[Sample] = ()

    def apply(self, samples: Sequence[Sample], root: Path, needed: bool) -> tuple[list[Sample], dict[str, str]]:
        """Return the samples with their groups, and sample key -> group.

        Without a rule, and where no share is held out (``needed``), the samples stay as they are.

        Raises:
            ConfigError, MediaError: as for ``group_names``.
        """
        if not (needed or self.rule.kind or self.find_similar):
            return list(samples), {}
        names = self.group_names(samples, root)
        # A run from before groups were looked for keeps the groups that its data name.
        replaced = self.rule.kind == "regex"
        groups = [names.get(sample.key, "" if replaced else sample.group) for sample in samples]
        return [s if s.group == group else replace(s, group=group) for s, group in zip(samples, groups)], names

    def group_names(self, samples: Sequence[Sample], root: Path) -> dict[str, str]:
        """Return sample key -> group of all samples that have one. A sample without one stands for itself.

        Raises:
            ConfigError: the rule gives no sample a group, or its regular expression takes too long.
            MediaError: a file is broken, where samples that resemble each other are looked for.
        """
        if self.names is not None:
            return dict(self.names)
        named = None
        if self.rule.kind == "regex":
            places = [_place(sample, root) for sample in samples]
            named = match_paths(normalize_name(self.rule.value), places, "stream.group")
        named = [sample.group for sample in samples] if named is None else named
        old = [like_old(sample) for sample in self.learned]
        groups = JoinedGroups([*named, *old])
        if self.rule.kind in ("column", "regex") and not any(named):
            what = f"column {self.rule.value!r} is empty in every row"
            if self.rule.kind == "regex":
                what = f"{self.rule.value!r} matches none of {len(samples)} paths, such as {_place(samples[0], root)}"
            raise ConfigError(f"stream.group: {root}: {what}; correct it, or leave it empty")
        if self.equal_content:
            positions = {id(sample): position for position, sample in enumerate(samples)}
            with_content = [sample for sample in samples if _has_content(sample)]
            for equal in group_equal_content(with_content, id):
                groups.join([positions[id(sample)] for sample in equal])
        for similar in self.find_similar([*samples, *self.learned]) if self.find_similar else ():
            groups.join(similar)
        # A group with old samples is named after one of these: a test sample, or else a validation sample.
        order = sorted(old, key=lambda name: -SPLITS.index(self.sides[name]))
        return groups.by_key([sample.key for sample in samples], {name: place for place, name in enumerate(order)})


def like_old(sample: Sample) -> str:
    """Return the group of new samples that resemble a sample that a run has learned."""
    # Not the key itself: the name may stay when the old sample's class is taken out.
    return f"like old {hashlib.sha256(sample.key.encode(errors='surrogatepass')).hexdigest()[:16]}"


def column_of(grouping: Grouping | None) -> str:
    """Return the column that a grouping reads; empty where it reads none."""
    return "" if grouping is None else grouping.rule.column


class JoinedGroups:
    """Groups of n samples that can be joined (disjoint sets with path halving).

    Attributes:
        names: the group that the data name for each sample; empty: none.
    """

    def __init__(self, names: Sequence[str]):
        self.names = list(names)
        self._above = list(range(len(self.names)))
        first: dict[str, int] = {}
        for position, name in enumerate(self.names):
            if name:
                self.join([first.setdefault(name, position), position])

    def join(self, positions: Sequence[int]) -> None:
        """Make one group of the groups of these samples."""
        lowest, *others = sorted({self._find(position) for position in positions})
        for other in others:
            self._above[other] = lowest

    def by_key(self, keys: Sequence[str], order: Mapping[str, int] | None = None) -> dict[str, str]:
        """Return key -> group of the first samples. A group without a name is called like its first sample.

        Args:
            keys: keys of the first samples; others have no entry.
            order: name -> rank. A group with several names gets the one of the lowest rank, or else the first one of
                the alphabet.
        """
        order = order or {}
        members: dict[int, list[int]] = {}
        for position in range(len(self.names)):
            members.setdefault(self._find(position), []).append(position)
        out: dict[str, str] = {}
        for some in members.values():
            names = [self.names[i] for i in some if self.names[i]]
            default = keys[some[0]] if some[1:] else ""
            name = min(names, key=lambda name: (order.get(name, len(order)), name), default=default)
            out.update((keys[i], name) for i in some if name and i < len(keys))
        return out

    def _find(self, position: int) -> int:
        above = self._above
        while above[position] != position:
            above[position] = above[above[position]]
            position = above[position]
        return position


def _place(sample: Sample, root: Path) -> str:
    """Return a file's path relative to the stream's folder, in Unicode's composed form; the key of other samples."""
    if isinstance(sample.path, Path):
        with suppress(ValueError):
            return normalize_name(sample.path.relative_to(root).as_posix())
    return normalize_name(sample.key)


def _has_content(sample: Sample) -> bool:
    """Whether a sample holds anything: files that were left empty are equal, but not one recording."""
    with suppress(OSError):
        return sample.path is None or size_of(sample.path) > 0
    return False
