"""One modality's prediction as one graph: trunk, relevance, prefixes, head, re-alignment, scores."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mmcl_fast.errors import RunError
from mmcl_fast.learning import Learner
from mmcl_fast.media import TextSpec

PATHS = ("stack_trace", "nn_module_stack", "source_fn_stack", "fwd_source_fn_stack")  # of the machine that exported


class Predictor(nn.Module):
    """What ``Learner.predict`` does with prepared input, modality agnostic.

    Call it with pixels ``[B, F, 3, size, size]`` float32 or, for text, ids and mask ``[B, N]`` int64. Gives by name
    ``probabilities`` and ``logits [B, C]``, and what else the method's ``outputs`` have.
    """

    def __init__(self, learner: Learner, modality: str):
        super().__init__()
        self.learner, self.modality = learner, modality

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        learner, encoder = self.learner, self.learner.encoder
        if self.modality == "text":
            ids, mask = inputs
            tokens = encoder.trunk_of_ids(ids, mask.bool())
        else:
            tokens = encoder.trunk(inputs[0], self.modality)
        outputs = learner.method.outputs(tokens.rounded(), self.modality, learner.classes)
        return {"probabilities": outputs["logits"].softmax(1), **outputs}


@dataclass(frozen=True)
class Traced:
    """An exported program, and the shape of each input by name: numbers, and the names of what may vary."""

    program: ExportedProgram
    inputs: dict[str, list[int | str]]
    outputs: list[str]


def input_shapes(learner: Learner, modality: str) -> dict[str, list[int | str]]:
    spec = learner.spec(modality)
    if isinstance(spec, TextSpec):
        text = learner.encoder.tokenizer()[1]
        shape = ["batch", "tokens" if text["dynamic"] else text["max_tokens"]]
        return {"ids": shape, "mask": shape}
    return {"pixels": ["batch", *spec.shape]}


def trace(learner: Learner, modality: str, example: tuple[Tensor, ...]) -> Traced:
    """Raises RunError for a method whose prediction is no tensor code.

    Args:
        example: inputs of two samples or more.
    """
    predictor, shapes = Predictor(learner, modality).eval(), input_shapes(learner, modality)
    varies = {"batch": Dim("batch", min=1)}
    if "tokens" in next(iter(shapes.values())):
        varies["tokens"] = Dim("tokens", min=2, max=learner.encoder.tokenizer()[1]["max_tokens"])
    dynamic = tuple(
        {axis: varies[size] for axis, size in enumerate(shape) if isinstance(size, str)} for shape in shapes.values()
    )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outputs = list(predictor(*example))  # also computes what methods solve once
        try:
            program = torch.export.export(predictor, example, dynamic_shapes=(dynamic,))
        except Exception as fault:  # whatever stops the tracer is of the method's or the encoder's code
            reason = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
            raise RunError(
                f"method {learner.method.name}: its prediction for {modality} is not tensor code alone, so "
                f"that it can't be exported ({reason}); use another method"
            ) from fault
    for node in program.graph.nodes:
        for key in PATHS:
            node.meta.pop(key, None)
    return Traced(program, shapes, outputs)
