"""The folder: graphs, constants of the preparation, classes, a model card; nothing stays that differs."""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmcl_fast import __version__
from mmcl_fast.errors import ConfigError, RunError, UserError
from mmcl_fast.export import card, samples
from mmcl_fast.export import onnx as onnx_
from mmcl_fast.export.graph import Traced, input_shapes, trace
from mmcl_fast.learning import Learner
from mmcl_fast.streams import Stream

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
# A sum in another order may round a trunk token to the other bfloat16; large logit scales make the most of that.
TOLERANCE = {"probabilities": 1e-3, "logits": 1e-3, "embedding": 1e-4, "contributions": 1e-4}
CARD, MODEL, CLASSES, PREPROCESS, TOKENIZER = (
    "README.md",
    "model.json",
    "classes.json",
    "preprocess.json",
    "tokenizer.json",
)


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: where.
        differences: modality -> output -> the largest difference from the learner; see ``samples.differences``.
        files: name -> bytes.
    """

    folder: Path
    differences: dict[str, dict[str, float]]
    files: dict[str, int]


def export_run(run: Path, folder: Path, *, format: str = "onnx", force: bool = False) -> Exported:
    """``export`` of a run folder of ``mmcl-fast train``, or of what ``Learner.save`` wrote; a run's own test samples,
    where they are still there, are held to the learner beside made-up ones."""
    from mmcl_fast.config import read_run_config
    from mmcl_fast.report import page as report
    from mmcl_fast.runs.train import make_stream

    _check(folder, format, force)
    learner = Learner.load(run, device="cpu", precision="fp32")
    stream, summary = None, None
    if (run / "config.json").is_file():
        with contextlib.suppress(UserError):  # the data moved on
            stream = make_stream(read_run_config(run), run)
    if (run / "summary.json").is_file():
        summary = report.read(run)
    return export(learner, folder, format=format, force=force, stream=stream, summary=summary)


def export(
    learner: Learner,
    folder: Path,
    *,
    format: str = "onnx",
    force: bool = False,
    stream: Stream | None = None,
    summary: dict[str, Any] | None = None,
) -> Exported:
    """Write a graph for each modality learned, computing in float32 on any batch, and hold each to the learner.

    Args:
        learner: on the CPU, in float32.
        folder: to write. An export that is there already is replaced with ``force`` alone, anything else never.
        format: ``onnx`` (opset ``onnx_.OPSET``) or ``torch`` (torch.export, ``.pt2``).
        stream: its test samples are compared as well as made-up ones.
        summary: of the run, for the model card.

    Raises:
        RunError: nothing was learned; the method can't be exported; a graph differs from the learner by more than
            ``TOLERANCE``. Nothing is written then.
    """
    _check(folder, format, force)
    if not learner.tasks:
        raise RunError("export: nothing has been learned yet; call learn first or load a run")
    if learner.encoder.precision != torch.float32 or learner.encoder.device.type != "cpu":
        raise RunError('export: computes in float32 on the CPU; load the learner with device="cpu", precision="fp32"')
    versions = {"mmcl_fast": __version__, "torch": torch.__version__.split("+")[0]}
    versions |= onnx_.versions() if format == "onnx" else {}
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        preparation, differences = _graphs(learner, part, format, stream)
        record = {
            "format": format,
            "opset": onnx_.OPSET if format == "onnx" else None,
            "versions": versions,
            "method": learner.method.name,
            "options": learner.settings["options"],
            "encoder": card.name_of(learner),
            "encoder_fingerprint": learner.encoder.fingerprint,
            "tasks": learner.tasks,
            "contributions": (learner.contribution_matrix() or (None,))[0],
            "tolerance": TOLERANCE,
            "differences": differences,
        }
        classes = [
            {"id": i, "modality": m, "class": name, "text": text}
            for i, ((m, name), text) in enumerate(zip(learner.classes.keys, learner.classes.texts))
        ]
        for name, value in ((MODEL, record), (CLASSES, classes), (PREPROCESS, preparation)):
            (part / name).write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
        (part / CARD).write_text(card.write(record, preparation, len(classes), summary), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    except OSError as fault:
        raise RunError(
            f"{folder}: can't be written ({fault.strerror or fault}); make room or give another folder"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Exported(folder, differences, {f.name: f.stat().st_size for f in sorted(folder.iterdir())})


def _check(folder: Path, format: str, force: bool) -> None:
    if format not in FORMATS:
        raise ConfigError(f"format {format!r}: use one of {', '.join(FORMATS)}")
    if folder.exists():
        if not (folder / MODEL).is_file():
            raise RunError(f"{folder}: is there already and no export; give another folder")
        if not force:
            raise RunError(f"{folder}: is there already; give another folder, or --force to replace it")


def _graphs(
    learner: Learner, folder: Path, format: str, stream: Stream | None
) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """Writes each modality's graph; what preprocess.json says, and the differences."""
    weights = onnx_.Weights(folder) if format == "onnx" else None
    preparation: dict[str, Any] = {}
    differences: dict[str, dict[str, float]] = {}
    for modality in dict.fromkeys(task["modality"] for task in learner.tasks):
        inputs = [samples.made_up(learner, modality)]
        own = samples.of_stream(learner, stream, modality) if stream is not None else None
        inputs += [own] if own is not None else []
        traced, file = trace(learner, modality, inputs[0]), folder / f"{modality}{FORMATS[format]}"
        run = _onnx(traced, file, weights) if weights is not None else _torch(traced, file)
        found = [samples.differences(learner, modality, x, run) for x in inputs]
        differences[modality] = {k: max((d[k] for d in found), key=lambda v: (v != v, v)) for k in found[0]}
        for name, value in differences[modality].items():
            if not value <= TOLERANCE[name]:
                raise RunError(
                    f"{modality}: {name} of the graph differ from the learner's by {value:.2g}, more than "
                    f"{TOLERANCE[name]:g}; nothing was written: use the other format, or another torch"
                )
        preparation[modality] = {
            "graph": file.name,
            "inputs": input_shapes(learner, modality),
            "outputs": traced.outputs,
            "spec": learner.spec(modality).to_dict(),
        }
        if modality == "text":
            tokenizer, values = learner.encoder.tokenizer()
            (folder / TOKENIZER).write_text(tokenizer, encoding="utf-8")
            preparation[modality] |= {
                "tokenizer": TOKENIZER,
                "lowercase": values["lowercase"],
                "max_tokens": values["max_tokens"],
            }
    return preparation, differences


def _onnx(traced: Traced, file: Path, weights: onnx_.Weights) -> Callable:
    onnx_.write(traced, file, weights)
    return onnx_.Session(file)


def _torch(traced: Traced, file: Path) -> Callable:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that are parts of others
        torch.export.save(traced.program, file)
    module = torch.export.load(file).module()
    return lambda inputs: module(*inputs)
