"""Trace the prediction of one modality as one graph: trunk, relevance, prefixes, head, re-alignment, scores.

The graph also has the score of samples that belong to none of the classes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mmcl_fast.errors import RunError
from mmcl_fast.learning import Learner
from mmcl_fast.media import TextSpec

# Metadata of a node that names paths of the machine that exported.
PATH_KEYS = ("stack_trace", "nn_module_stack", "source_fn_stack", "fwd_source_fn_stack")


class PredictionModule(nn.Module):
    """Predicts prepared inputs of one modality as ``Learner.predict`` does without the modality given.

    Its inputs are pixels ``[B, F, 3, size, size]`` float32, or for text ids and mask ``[B, N]`` int64. It returns
    ``probabilities`` and ``logits``, both ``[B, C]``, and the other ``outputs`` of the method by their names. The last
    one is ``unknown`` ``[B]`` float64, unless it is ``missing`` (``mmcl_fast.learning.unknown``).
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
        tokens = tokens.rounded()
        outputs = learner.method.outputs(tokens, self.modality, learner.classes)
        outputs = {"probabilities": learner.calibration.probabilities(outputs["logits"], self.modality), **outputs}
        if not learner.unknown.missing(self.modality):
            outputs["unknown"] = learner.unknown.shares(tokens, self.modality)
        return outputs


@dataclass(frozen=True)
class Traced:
    """An exported program.

    Attributes:
        inputs: name -> shape, where a name in place of a number is a size that may vary.
        outputs: the names of the outputs.
    """

    program: ExportedProgram
    inputs: dict[str, list[int | str]]
    outputs: list[str]


def input_shapes(learner: Learner, modality: str) -> dict[str, list[int | str]]:
    """Return name -> shape of the inputs of a modality; a size that may vary has a name in place of a number."""
    spec = learner.spec(modality)
    if isinstance(spec, TextSpec):
        text = learner.encoder.tokenizer()[1]
        shape = ["batch", "tokens" if text["dynamic"] else text["max_tokens"]]
        return {"ids": shape, "mask": shape}
    return {"pixels": ["batch", *spec.shape]}


def trace(learner: Learner, modality: str, example: tuple[Tensor, ...]) -> Traced:
    """Trace the prediction of a modality.

    Args:
        learner: the learner.
        modality: a modality that it has learned.
        example: inputs of at least two samples: torch.export takes a size of 1 for a constant.

    Raises:
        RunError: the method's prediction is not tensor code alone.
    """
    module, shapes = PredictionModule(learner, modality).eval(), input_shapes(learner, modality)
    varies = {"batch": Dim("batch", min=1)}
    if "tokens" in next(iter(shapes.values())):
        varies["tokens"] = Dim("tokens", min=2, max=learner.encoder.tokenizer()[1]["max_tokens"])
    dynamic = tuple(
        {axis: varies[size] for axis, size in enumerate(shape) if isinstance(size, str)} for shape in shapes.values()
    )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outputs = list(module(*example))  # methods also solve their closed forms here, before tracing
        try:
            with learner.method.embedding_cache.trace():
                program = torch.export.export(module, example, dynamic_shapes=(dynamic,))
        except Exception as fault:  # the tracer runs any code of the method and the encoder
            reason = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
            raise RunError(
                f"method {learner.method.name}: its prediction for {modality} is not tensor code alone, so "
                f"it can't be exported ({reason}); use another method"
            ) from fault
    for node in program.graph.nodes:
        for key in PATH_KEYS:
            node.meta.pop(key, None)
    return Traced(program, shapes, outputs)
