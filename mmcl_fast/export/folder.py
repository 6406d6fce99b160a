"""Write the folder of an export: graphs, how to prepare inputs, classes, a model card."""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmcl_fast import __version__
from mmcl_fast.errors import ConfigError, RunError, UserError
from mmcl_fast.export import card, onnx_files, verify
from mmcl_fast.export.graph import Traced, input_shapes, trace
from mmcl_fast.learning import Learner
from mmcl_fast.learning.current_version import current_folder
from mmcl_fast.streams import Stream

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
# A sum in another order may round a trunk token to the neighbouring bfloat16, and a large logit scale magnifies that.
TOLERANCE = {"probabilities": 1e-3, "logits": 1e-3, "embedding": 1e-4, "contributions": 1e-4, "unknown": 1e-2}
CARD, MODEL, CLASSES, PREPROCESS, TOKENIZER = (
    "README.md",
    "model.json",
    "classes.json",
    "preprocess.json",
    "tokenizer.json",
)


@dataclass(frozen=True)
class Exported:
    """An export that was written.

    Attributes:
        folder: the folder.
        differences: modality -> output -> the largest difference from the learner; see ``verify.largest_differences``.
        files: name of a file -> its size in bytes.
    """

    folder: Path
    differences: dict[str, dict[str, float]]
    files: dict[str, int]


def export_run(
    run: Path | str, folder: Path | str | None = None, *, format: str = "onnx", force: bool = False
) -> Exported:
    """Export a run folder of ``mmcl-fast train``, or a folder of ``Learner.save``.

    The graphs are compared with the learner on synthetic inputs, and on the run's test samples if these still exist.

    Args:
        folder: the folder to write; None: ``export-onnx`` or ``export-torch`` in the run folder.
        format, force: as for ``export``.

    Raises:
        RunError, ConfigError: as for ``export``; or the run can't be read.

    Example::

        exported = export_run("runs/demo", "demo-onnx")
        print(exported.differences["image"]["probabilities"])
    """
    from mmcl_fast.config import read_run_config
    from mmcl_fast.report.read_run import read_run
    from mmcl_fast.runs.make_stream import make_stream

    run = current_folder(run)
    folder = run / f"export-{format}" if folder is None else Path(folder)
    _check_target(folder, format, force)
    learner = Learner.load(run, device="cpu", precision="fp32", progress=None)
    stream, summary = None, None
    if (run / "config.json").is_file():
        with contextlib.suppress(UserError):  # data that has moved is no fault: synthetic inputs remain
            stream = make_stream(read_run_config(run), run)
    if (run / "summary.json").is_file():
        summary = read_run(run)
    return export(learner, folder, format=format, force=force, stream=stream, summary=summary)


def export(
    learner: Learner,
    folder: Path | str,
    *,
    format: str = "onnx",
    force: bool = False,
    stream: Stream | None = None,
    summary: dict[str, Any] | None = None,
) -> Exported:
    """Write a float32 graph for each modality learned, and compare each graph with the learner.

    Args:
        learner: a learner on the CPU, in float32.
        folder: the folder to write. Only ``force`` replaces an export; nothing replaces another folder.
        format: ``onnx`` (opset ``onnx_files.OPSET``) or ``torch`` (torch.export, ``.pt2``).
        stream: its test samples are compared as well as synthetic inputs.
        summary: the values of the run's summary.json, for the model card.

    Raises:
        ConfigError: the format is not known.
        RunError: nothing was learned, the learner is not on the CPU in float32, or the method can't be exported. Also
            if a graph differs from the learner by more than ``TOLERANCE``, or if ``folder`` exists or cannot be
            written. Then nothing is written.

    Example::

        learner = mf.Learner.load("model/", device="cpu", precision="fp32")
        export(learner, "model-onnx/")
    """
    folder = Path(folder)
    _check_target(folder, format, force)
    if not learner.tasks:
        raise RunError("export: nothing has been learned yet; call learn first or load a run")
    if learner.encoder.precision != torch.float32 or learner.encoder.device.type != "cpu":
        raise RunError('export: computes in float32 on the CPU; load the learner with device="cpu", precision="fp32"')
    versions = {"mmcl_fast": __version__, "torch": torch.__version__.split("+")[0]}
    versions |= onnx_files.package_versions() if format == "onnx" else {}
    # Written beside the target and renamed at the end, so that an export that fails leaves nothing.
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        inputs, differences = _write_graphs(learner, part, format, stream)
        record = {
            "format": format,
            "opset": onnx_files.OPSET if format == "onnx" else None,
            "versions": versions,
            "method": learner.method.name,
            "options": learner.settings["options"],
            "encoder": card.public_name(learner),
            "encoder_fingerprint": learner.encoder.fingerprint,
            "tasks": learner.tasks,
            "contributions": (learner.contribution_matrix() or (None,))[0],
            "calibration": learner.calibration.values(),
            "unknown_missing": {m: why for m in inputs if (why := learner.unknown.missing(m))},
            "tolerance": TOLERANCE,
            "differences": differences,
        }
        classes = [
            {"id": i, "modality": m, "class": name, "text": text}
            for i, ((m, name), text) in enumerate(zip(learner.classes.keys, learner.classes.texts))
        ]
        for name, value in ((MODEL, record), (CLASSES, classes), (PREPROCESS, inputs)):
            (part / name).write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
        (part / CARD).write_text(card.render_card(record, inputs, len(classes), summary), encoding="utf-8")
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


def _check_target(folder: Path, format: str, force: bool) -> None:
    if format not in FORMATS:
        raise ConfigError(f"format {format!r}: use one of {', '.join(FORMATS)}")
    if folder.exists():
        if not (folder / MODEL).is_file():
            raise RunError(f"{folder}: exists and is no export; give another folder")
        if not force:
            raise RunError(f"{folder}: exists already; give another folder, or --force to replace it")


def _write_graphs(
    learner: Learner, folder: Path, format: str, stream: Stream | None
) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """Write and compare the graph of each modality; return the values of preprocess.json, and the differences."""
    weights = onnx_files.SharedWeights(folder) if format == "onnx" else None
    preparation: dict[str, Any] = {}
    differences: dict[str, dict[str, float]] = {}
    for modality in dict.fromkeys(task["modality"] for task in learner.tasks):
        inputs = [verify.synthetic_inputs(learner, modality)]
        samples = verify.sample_inputs(learner, stream, modality) if stream is not None else None
        inputs += [samples] if samples is not None else []
        traced, file = trace(learner, modality, inputs[0]), folder / f"{modality}{FORMATS[format]}"
        run_graph = _write_onnx(traced, file, weights) if weights is not None else _write_torch(traced, file)
        found = [verify.largest_differences(learner, modality, x, run_graph) for x in inputs]
        # The key puts nan above every number.
        differences[modality] = {k: max((d[k] for d in found), key=lambda v: (v != v, v)) for k in found[0]}
        for name, value in differences[modality].items():
            if not value <= TOLERANCE[name]:  # not ">": a nan is too large as well
                raise RunError(
                    f"{modality}: output {name} of the graph differs from the learner's by {value:.2g}, more than "
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


def _write_onnx(traced: Traced, file: Path, weights: onnx_files.SharedWeights) -> verify.RunGraph:
    onnx_files.write_onnx(traced, file, weights)
    return onnx_files.OnnxSession(file)


def _write_torch(traced: Traced, file: Path) -> verify.RunGraph:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of weights that are views of others
        torch.export.save(traced.program, file)
    module = torch.export.load(file).module()
    return lambda inputs: module(*inputs)
