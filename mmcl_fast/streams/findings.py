"""What is wrong with the data of a stream: every fault by its kind, the most harmful first."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from mmcl_fast.errors import StreamError

ERROR, WARNING, NOTE = LEVELS = ("error", "warning", "note")
# By the harm to what is learned, worst first. An error stops ``train``, a warning does not; a note harms nothing.
KINDS = {
    "unreadable": ERROR,  # a folder or a table: nobody knows what it holds
    "unknown-modality": ERROR,  # its classes are not learned
    "unknown-split": ERROR,
    "class-texts": ERROR,  # classes.json is at fault: no class has the text that it was given
    "no-training-file": ERROR,  # the class can't be learned
    "no-test-split": ERROR,  # nothing says whether a task was learned
    "equal-in-splits": ERROR,  # what was learned by heart is counted as known
    "two-labels": WARNING,  # one content teaches two classes
    "wrong-modality": ERROR,  # what the file holds belongs elsewhere
    "alike-names": WARNING,  # one class learned as two
    "equal-texts": WARNING,  # classes that their texts don't tell apart
    "undecodable": ERROR,
    "empty": ERROR,
    "missing": ERROR,
    "row": ERROR,  # of a table, a manifest or a tar
    "name": ERROR,  # of a file: not UTF-8
    "listed-twice": ERROR,
    "too-few-files": ERROR,  # to learn from and to test on
    "empty-class": ERROR,
    "no-test-file": WARNING,  # of a class: nothing says whether it was learned
    "left-out": WARNING,  # files and members that are part of no sample
    "misspelt-text": WARNING,  # of classes.json: a class goes without its text
    "one-training-file": NOTE,
    "no-validation-file": NOTE,
    "equal-in-class": NOTE,
    "alike-files": NOTE,  # Windows and macOS would keep one of them
    "unused-text": NOTE,
    "two-spellings": NOTE,
    "loop": NOTE,  # a link to a folder above itself
    "linked-twice": NOTE,
    "passed-over": NOTE,  # hidden files, and what systems leave behind
}
RANK = {kind: rank for rank, kind in enumerate(KINDS)}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: a key of ``KINDS``, which is in the order of harm.
        reason: one line: what is wrong, where, what to do.
        modality, split, label: what it concerns, "" where it is no single one.
        key: of the sample, "" where it is none.
        path: the file or folder.
        others: further files, such as those of equal content.
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
        """error, warning or note."""
        return KINDS[self.kind]

    def record(self) -> dict[str, object]:
        """For JSON. ``rank`` counts from 0, the most harmful kind."""
        return {"level": self.level, "rank": RANK[self.kind], **asdict(self)}


class Findings:
    """Findings of one stream in the order in which they were made.

    Args:
        collect: keep going at errors, so that all are found; otherwise ``settle`` raises.
    """

    def __init__(self, collect: bool = False):
        self.collect = collect
        self.found: list[Finding] = []

    def add(self, kind: str, reason: object, **about: str | tuple[str, ...]) -> None:
        """Keep a finding; ``about``: the fields of ``Finding``."""
        line = " ".join(part.strip() for part in str(reason).splitlines())
        self.found.append(Finding(kind, line, **about))  # type: ignore[arg-type]

    def attempt(self, kind: str, check: Callable[..., object], *args: object, **about: str | tuple[str, ...]) -> bool:
        """Whether ``check(*args)`` raises no StreamError; otherwise its line is kept."""
        try:
            check(*args)
        except StreamError as error:
            self.add(kind, error, **about)
            return False
        return True

    def sorted(self) -> list[Finding]:
        """The most harmful first; those of a kind stay in their order."""
        return sorted(self.found, key=lambda finding: RANK[finding.kind])

    def count(self, level: str) -> int:
        return sum(finding.level == level for finding in self.found)

    def error(self, otherwise: str = "") -> StreamError | None:
        """The most harmful error with the number of the others; or ``otherwise``, if there is none."""
        errors = [finding for finding in self.sorted() if finding.level == ERROR]
        if not errors:
            return StreamError(otherwise) if otherwise else None
        more = f" ({len(errors) - 1} more: mmcl-fast data check lists them)" if errors[1:] else ""
        return StreamError(errors[0].reason + more)

    def settle(self) -> None:
        """Raises StreamError for the most harmful error, unless all are to be collected."""
        error = None if self.collect else self.error()
        if error is not None:
            raise error


def to_jsonl(findings: Iterable[Finding]) -> str:
    """One JSON object a line, in ASCII."""
    return "".join(json.dumps(finding.record()) + "\n" for finding in findings)
