"""The whole check of data: read it as a stream, decode every file, and collect all that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcl_fast.errors import ConfigError, StreamError
from mmcl_fast.streams.broken_samples import BrokenSample
from mmcl_fast.streams.file_check import check_files
from mmcl_fast.streams.findings import Findings
from mmcl_fast.streams.grouping import Grouping
from mmcl_fast.streams.inspection import inspect_stream
from mmcl_fast.streams.sample import SPLITS
from mmcl_fast.streams.sources.detect import detect_source
from mmcl_fast.streams.stream import Stream


@dataclass(frozen=True)
class DataReport:
    """The result of ``check_data``.

    Attributes:
        findings: all that is wrong; ``findings.sorted()`` has the most harmful kind first.
        stream: the stream that was read, broken samples included; None where no sample can be read.
        broken: the samples that do not decode.
    """

    findings: Findings
    stream: Stream | None = None
    broken: Sequence[BrokenSample] = ()

    @property
    def passed(self) -> bool:
        """Whether there is no error and no warning. Notes do not count."""
        return not self.findings.count("error") and not self.findings.count("warning")

    def counts(self) -> list[dict[str, Any]]:
        """Return a row for each modality: its name, the number of classes, and the number of samples of each split."""
        if self.stream is None:
            return []
        rows = []
        for modality in self.stream.modalities:
            tasks = [task for task in self.stream.tasks if task.modality == modality]
            samples = {split: sum(len(task.split(split)) for task in tasks) for split in SPLITS}
            rows.append({"modality": modality, "classes": sum(len(task.classes) for task in tasks), **samples})
        return rows


def check_data(
    path: str | Path,
    *,
    grouping: Grouping | None = None,
    workers: int = 2,
    progress: Any = None,
    settings: Mapping[str, Any] | None = None,
) -> DataReport:
    """Read a folder, manifest, table or tars, decode every file, and report all that is wrong.

    Args:
        path: read as ``Stream.from_path`` does.
        grouping: finds the groups that no split separates; None: the data's own groups, and equal content.
        workers: as in ``check_files``.
        progress: as in ``check_files``.
        settings: as in ``check_files``.

    Raises:
        StreamError: there is nothing at ``path``. Everything else is in the report.

    Example::

        report = check_data("data/")
        for finding in report.findings.sorted():
            print(finding.level, finding.reason)
    """
    source = detect_source(path)
    read, how = getattr(Stream, f"from_{source}"), grouping or Grouping(equal_content=True)
    if how.rule.column and source not in ("table", "manifest"):
        raise ConfigError(
            f"stream.group: column {how.rule.column!r} is for a table or manifest, and {path} is a {source}; give "
            "regex:PATTERN over paths, or duplicates"
        )
    return check_stream(
        lambda findings: read(path, keep_empty=True, findings=findings, grouping=how),
        workers=workers,
        progress=progress,
        settings=settings,
    )


def check_stream(
    read: Callable[[Findings], Stream],
    *,
    workers: int = 2,
    progress: Any = None,
    settings: Mapping[str, Any] | None = None,
) -> DataReport:
    """Do what ``check_data`` does for a stream that ``read`` builds. ``read`` takes the Findings to add to."""
    findings = Findings(collect=True)
    try:
        stream = read(findings)
    except StreamError as error:
        # The error may be one of the findings, with the number of the others at its end.
        if not any(str(error).startswith(finding.reason) for finding in findings):
            findings.add("unreadable", error)
        return DataReport(findings)
    broken = check_files(stream, workers=workers, progress=progress, settings=settings)
    inspect_stream(stream, broken, findings)
    return DataReport(findings, stream, broken)
