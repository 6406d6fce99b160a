"""Streams of tasks: samples from folders, manifests, tables and tars, the order of tasks, and checks of the data.

Example::

    from mmcl_fast.streams import Stream, check_data

    report = check_data("data/")  # reads everything, decodes every file
    if report.passed:
        stream = Stream.from_path("data/", classes_per_task=5)
"""

from mmcl_fast.streams.broken_samples import BrokenSample
from mmcl_fast.streams.data_check import DataReport, check_data
from mmcl_fast.streams.file_check import check_files, require_readable_files, skip_broken_samples
from mmcl_fast.streams.findings import Finding, Findings, format_findings
from mmcl_fast.streams.sample import ClassId, Sample, Task
from mmcl_fast.streams.sources.detect import detect_source
from mmcl_fast.streams.stream import Stream

__all__ = [
    "BrokenSample",
    "ClassId",
    "DataReport",
    "Finding",
    "Findings",
    "Sample",
    "Stream",
    "Task",
    "check_data",
    "check_files",
    "detect_source",
    "format_findings",
    "require_readable_files",
    "skip_broken_samples",
]
