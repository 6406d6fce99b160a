"""Write graphs as ONNX files that share one file of weights, and run them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from mmcl_fast.errors import RunError
from mmcl_fast.export.graph import Traced

OPSET = 18
WEIGHTS = "weights.bin"
MIN_SHARED_BYTES = 1024  # smaller constants stay in the graph
PAGE = 4096  # arrays begin at a multiple of it, so that a runtime can memory-map them


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that write and run ONNX.

    Raises:
        RunError: one of them isn't installed.
    """
    try:
        import onnxruntime
        import onnxscript
    except ImportError as fault:
        raise RunError(f"format onnx needs the package {fault.name}: pip install 'mmcl-fast[onnx]'") from None
    return {"onnxscript": onnxscript.__version__, "onnxruntime": onnxruntime.__version__}


class SharedWeights:
    """The file of weights: it holds each array once, however many graphs use it."""

    def __init__(self, folder: Path):
        self.file, self.size = folder / WEIGHTS, 0
        self.offsets: dict[bytes, int] = {}
        self.file.touch()

    def store(self, data: bytes) -> int:
        """Return the offset of these bytes in the file, and append them if they are new."""
        key = hashlib.sha256(data).digest()
        if key not in self.offsets:
            start = -(-self.size // PAGE) * PAGE
            with self.file.open("ab") as stream:
                stream.write(bytes(start - self.size) + data)
            self.offsets[key], self.size = start, start + len(data)
        return self.offsets[key]


def write_onnx(traced: Traced, file: Path, weights: SharedWeights) -> None:
    """Write a graph as an ONNX file, with its large constants in the shared file of weights.

    Raises:
        RunError: torch can't write this graph.
    """
    import onnx_ir as ir

    try:
        with _silence_exporter():
            program = torch.onnx.export(traced.program, (), dynamo=True, opset_version=OPSET, verbose=False)
            model = cast(torch.onnx.ONNXProgram, program).model
    except torch.onnx.OnnxExporterError as fault:
        reason = str(fault).strip().splitlines()[0]
        raise RunError(f"{file.stem}: torch can't write its graph as ONNX ({reason}); use --format torch") from fault
    if model.opset_imports[""] != OPSET:
        raise RunError(
            f"{file.stem}: torch {torch.__version__} wrote opset {model.opset_imports['']}, not {OPSET}; "
            "use --format torch"
        )
    # torch's symbol for a size that may vary -> its name in ``traced.inputs``.
    names = {
        str(size): named
        for value, shape in zip(model.graph.inputs, traced.inputs.values())
        for size, named in zip(value.shape or (), shape)
        if isinstance(named, str)
    }
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for node in model.graph.all_nodes():
        node.metadata_props.clear()  # they name files of the machine that exported
        values += node.outputs
    for value in values:
        if value.name:  # an omitted optional output has none
            value.name = f"v.{value.name}"  # inputs and outputs get names below that none of these may have
        value.metadata_props.clear()
        if value.shape is not None:
            value.shape = ir.Shape([names.get(str(size), size) for size in value.shape])
    for value, name in zip([*model.graph.inputs, *model.graph.outputs], [*traced.inputs, *traced.outputs]):
        value.name = name
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes >= MIN_SHARED_BYTES:
            data = tensor.tobytes()
            value.const_value = ir.ExternalTensor(
                WEIGHTS,
                weights.store(data),
                len(data),
                tensor.dtype,
                shape=cast(ir.Shape, tensor.shape),
                name=value.name or "",
                base_dir=file.parent,
            )
    model.metadata_props.clear()
    ir.save(model, file)


@contextlib.contextmanager
def _silence_exporter() -> Iterator[None]:
    """Silence the notes of torch's exporter about packages that are not installed: logs, warnings and output."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


class OnnxSession:
    """An ONNX file that onnxruntime runs on the CPU. Call it with inputs; it returns name -> output."""

    def __init__(self, file: Path):
        import onnxruntime

        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.outputs = [value.name for value in self.session.get_outputs()]

    def __call__(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        got = self.session.run(None, dict(zip(self.inputs, (x.numpy() for x in inputs))))
        return dict(zip(self.outputs, map(torch.from_numpy, got)))
