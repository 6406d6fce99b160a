"""Findings: all that is wrong with the data of a stream, by kind, the most harmful kind first."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from mmcl_fast.errors import StreamError

ERROR, WARNING, NOTE = LEVELS = ("error", "warning", "note")
# In the order of harm to what is learned, worst first. An error stops training; a warning and a note do not.
KINDS = {
    "unreadable": ERROR,  # a folder or table that can't be read: its content is unknown
    "unknown-modality": ERROR,  # the classes of this folder are not learned
    "unknown-split": ERROR,
    "class-texts": ERROR,  # classes.json has an error, so no class gets its text
    "no-training-file": ERROR,  # the class can't be learned
    "no-test-split": ERROR,  # the task can't be tested
    "equal-in-splits": ERROR,  # the test would count a memorised file as known
    "group-in-splits": ERROR,  # takes of one recording, for example
    "similar-in-splits": WARNING,  # contents that resemble each other
    "two-labels": WARNING,  # one content teaches two classes
    "wrong-modality": ERROR,  # the file holds another modality
    "alike-names": WARNING,  # one class is learned as two
    "equal-texts": WARNING,  # two classes have the same class text
    "undecodable": ERROR,
    "empty": ERROR,
    "missing": ERROR,
    "row": ERROR,  # a row of a table or a manifest, or a sample of a tar
    "name": ERROR,  # a file name that is not UTF-8
    "listed-twice": ERROR,
    "too-few-files": ERROR,  # a class needs one file to train on and one to test on
    "empty-class": ERROR,
    "one-group": WARNING,  # a class of one group can't be tested
    "no-test-file": WARNING,  # this class of the task can't be tested
    "left-out": WARNING,  # files and tar members that belong to no sample
    "misspelt-text": WARNING,  # an entry of classes.json that resembles a class without a text
    "one-training-file": NOTE,
    "no-validation-file": NOTE,
    "equal-in-class": NOTE,
    "alike-files": NOTE,  # Windows and macOS would keep only one of these files
    "unused-text": NOTE,
    "two-spellings": NOTE,
    "loop": NOTE,  # a link to a folder above itself
    "linked-twice": NOTE,
    "passed-over": NOTE,  # hidden files, and files that an operating system writes
}
HARM_RANK = {kind: rank for rank, kind in enumerate(KINDS)}
_RENAMED = {  # earlier names of attributes, which an AttributeError explains
    "found": "list(findings)",
    "attempt": "Findings.add_on_error",
    "error": "Findings.worst_error",
    "settle": "Findings.raise_worst_error",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with the data.

    Attributes:
        kind: a key of ``KINDS``.
        reason: one line that says what is wrong, where, and what to do.
        modality, split, label: what the finding concerns; "" where it concerns several or none.
        key: the sample's key; "" where the finding concerns no single sample.
        path: the file or folder.
        others: keys or paths of further files, such as files of equal content.
    """

    kind: str
    reason: str
    modality: str = ""
    split: str = ""
    label: str = ""
    key: str = ""
    path: str = ""
    others: tuple[str, ...] = ()

    @property
    def level(self) -> str:
        """``error``, ``warning`` or ``note``."""
        return KINDS[self.kind]

    def record(self) -> dict[str, object]:
        """Return the fields for JSON, with the level and the rank. Rank 0 is the most harmful kind."""
        return {"level": self.level, "rank": HARM_RANK[self.kind], **asdict(self)}


class Findings:
    """The findings of one stream. Iterating gives them in the order in which they were made.

    Args:
        collect: go on after an error, to find all errors. Otherwise reading stops: ``raise_worst_error`` raises.

    Example::

        findings = Findings(collect=True)
        stream = Stream.from_folder("data/", findings=findings)
        for finding in findings.sorted():
            print(finding.level, finding.reason)
    """

    def __init__(self, collect: bool = False):
        self.collect = collect
        self._findings: list[Finding] = []

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._findings)

    def __len__(self) -> int:
        return len(self._findings)

    if not TYPE_CHECKING:  # or else the type checker would allow any attribute

        def __getattr__(self, name: str) -> object:
            renamed = f": it is now {_RENAMED[name]}" if name in _RENAMED else ""
            raise AttributeError(f"Findings has no attribute {name!r}{renamed}")

    def add(self, kind: str, reason: object, **fields: str | tuple[str, ...]) -> None:
        """Add a finding of this kind; ``fields`` are further fields of ``Finding``."""
        # File names and messages of libraries may hold line ends; a finding is one line.
        line = " ".join(part.strip() for part in str(reason).splitlines())
        self._findings.append(Finding(kind, line, **fields))  # type: ignore[arg-type]

    def add_on_error(
        self, kind: str, check: Callable[..., object], *args: object, **fields: str | tuple[str, ...]
    ) -> bool:
        """Call ``check(*args)`` and add a finding if it raises StreamError. Return whether it raised none."""
        try:
            check(*args)
        except StreamError as error:
            self.add(kind, error, **fields)
            return False
        return True

    def sorted(self) -> list[Finding]:
        """Return the findings with the most harmful kind first. Findings of one kind keep their order."""
        return sorted(self._findings, key=lambda finding: HARM_RANK[finding.kind])

    def count(self, level: str) -> int:
        """Return the number of findings of this level."""
        return sum(finding.level == level for finding in self._findings)

    def worst_error(self, otherwise: str = "") -> StreamError | None:
        """Return the most harmful error. Its message also has the number of the other errors.

        Without any error this is a StreamError with the message ``otherwise``, or None where that is empty.
        """
        errors = [finding for finding in self.sorted() if finding.level == ERROR]
        if not errors:
            return StreamError(otherwise) if otherwise else None
        more = f" ({len(errors) - 1} more: mmcl-fast data check lists them)" if errors[1:] else ""
        return StreamError(errors[0].reason + more)

    def raise_worst_error(self) -> None:
        """Raise the most harmful error as StreamError, if there is one, unless ``collect`` is set."""
        error = None if self.collect else self.worst_error()
        if error is not None:
            raise error


def findings_to_jsonl(findings: Iterable[Finding]) -> str:
    """Return one JSON object per line, in ASCII."""
    return "".join(json.dumps(finding.record()) + "\n" for finding in findings)


def format_findings(findings: Findings, levels: Iterable[str] = LEVELS, *, rest: str, limit: int = 5) -> Iterator[str]:
    """Give the lines that report the findings to a person, the most harmful kind first.

    Args:
        levels: report only findings of these levels.
        rest: where to see the findings beyond ``limit``, such as "--out FILE lists them".
        limit: number of findings of each kind that get a line of their own.

    Example:
        ``error: data/cat/1.png: the file is empty: replace the file or remove it``
        ``error: and 3 more of this kind (empty): --out FILE lists them``
    """
    chosen = [finding for finding in findings.sorted() if finding.level in set(levels)]
    for kind, group in itertools.groupby(chosen, key=lambda finding: finding.kind):
        same_kind = list(group)
        level = KINDS[kind]
        yield from (f"{level}: {finding.reason}" for finding in same_kind[:limit])
        if same_kind[limit:]:
            yield f"{level}: and {len(same_kind) - limit} more of this kind ({kind}): {rest}"
