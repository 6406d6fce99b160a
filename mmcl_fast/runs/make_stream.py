"""The stream that a config's section [stream] describes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmcl_fast.errors import ConfigError
from mmcl_fast.runs.folder import SKIPPED
from mmcl_fast.streams.broken_samples import read_broken_samples
from mmcl_fast.streams.findings import Findings
from mmcl_fast.streams.sources import known
from mmcl_fast.streams.stream import Stream

if TYPE_CHECKING:
    from mmcl_fast.config import Config

COLUMNS = {"folder": ("text", "label", "header"), "table": ("text", "label", "split", "header"), "tar": ("label",)}


def make_stream(config: Config, run: Path | None = None, *, findings: Findings | None = None) -> Stream:
    """The stream that the section [stream] describes; with the folder of a run, without what that run skipped.

    ``findings``: collects what is wrong, see ``Stream``.
    """
    stream = _described(config, findings)
    if run is None or not ((run / "config.json").is_file() and (run / SKIPPED).is_file()):
        return stream
    return stream.without_broken(read_broken_samples(run / SKIPPED))


def _described(config: Config, findings: Findings | None) -> Stream:
    s = config.stream
    options = {
        "findings": findings,
        "classes_per_task": s.classes_per_task,
        "order": s.order,
        "seed": s.seed,
        "modalities": s.modalities,
        "late": s.late,
        "share": s.share,
        "shuffle_classes": s.shuffle_classes,
        "shared_classes": s.shared_classes,
        "validation": s.validation,
        "test_on": s.test_on,
        "check": s.check and s.on_broken == "error",  # check.skip compares what is left
        "keep_empty": s.on_broken == "skip",
    }
    for name in ("text", "label", "split", "header"):
        if name not in COLUMNS.get(s.source, ()) and getattr(s, name) != type(s).model_fields[name].default:
            raise ConfigError(f"stream.{name}: not read where source = {s.source!r}; remove it")
    if s.source != "known" and s.datasets != type(s.datasets)():
        raise ConfigError(f'stream.datasets: for source = "known", not {s.source!r}; remove it or set the source')
    if isinstance(s.path, dict) and s.source != "tar":
        raise ConfigError(f'stream.path: a table of splits is for source = "tar", not {s.source!r}; give one path')
    if s.source == "demo" and not isinstance(s.path, dict):
        return Stream.demo(s.path, **options)
    if s.source == "known":
        if s.path is not None:
            raise ConfigError('stream.path: not read where source = "known"; give stream.datasets.<modality>.path')
        return Stream.from_known(known.datasets_from_config(s.datasets.model_dump(), config.media.depth_kind), **options)
    if s.path is None:
        raise ConfigError(f"stream.path: missing; source = {s.source!r} needs the path of its {s.source}")
    options |= {name: getattr(s, name) for name in COLUMNS.get(s.source, ())}
    return getattr(Stream, f"from_{s.source}")(s.path, **options)
