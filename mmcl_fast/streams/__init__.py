"""Streams of tasks: manifests, folders, the demo, and the order in which tasks arrive."""

from mmcl_fast.streams.findings import Finding, Findings
from mmcl_fast.streams.sample import ClassId, Sample, Task
from mmcl_fast.streams.stream import Stream

__all__ = ["ClassId", "Finding", "Findings", "Sample", "Stream", "Task"]
