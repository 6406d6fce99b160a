"""The bytes that COMM keeps for a class and for a modality, by part, with the embedded encoder.

python -m benchmarks.state_size

It learns one task of two classes of each modality from the demo's files, without training. The bytes follow from shapes
alone, so training changes none of them. The sum is checked against ``state_bytes``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from mmcl_fast.config import load_config
from mmcl_fast.learning import Learner
from mmcl_fast.learning.state_size import state_bytes
from mmcl_fast.media import MODALITIES
from mmcl_fast.methods.comm.method import Comm
from mmcl_fast.runs.make_stream import make_stream

UNTRAINED = {"prompts": True, "epochs": 0, "least_steps": 0, "steps": 0}
STREAM = ("stream.classes_per_task=2", "stream.max_train_per_class={image=4, video=4, audio=4, depth=4, text=4}")
CLASS_PARTS = {  # column: pattern of the tensors' names, with the modality as a group
    "mean": r"memory/class/([^/]+)/\d+/mean",
    "covariance: factor": r"memory/class/([^/]+)/\d+/factor",
    "covariance: diagonal": r"memory/class/([^/]+)/\d+/diagonal",
    "mean tokens": r"tokens/[^/]+/([^/]+)",
}
PROMPT = r"prompt/([^/]+)"


def bytes_of(tensors: Mapping[str, Tensor], pattern: str) -> dict[str, int]:
    """Return modality -> bytes of the tensors whose whole name matches; the pattern's group is the modality."""
    found: dict[str, int] = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(pattern, name):
            found[match[1]] = found.get(match[1], 0) + tensor.numel() * tensor.element_size()
    return found


def table(columns: Sequence[str], rows: Mapping[str, Sequence[int]]) -> str:
    """Return numbers by modality as a Markdown table."""
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[modality, *(f"{number:,}" for number in numbers)] for modality, numbers in rows.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def text(learner: Learner) -> str:
    """Return the bytes of a learner that has learned with COMM, as Markdown.

    Raises:
        ValueError: the method is another, or the parts for classes are not all that the state keeps for classes.
    """
    method = learner.method
    if not isinstance(method, Comm):
        raise ValueError(f"learned with {method.name}, not with COMM")
    tensors = method.state()[0]
    found = [bytes_of(tensors, pattern) for pattern in CLASS_PARTS.values()]
    counted, kept = sum(sum(sizes.values()) for sizes in found), state_bytes(method, len(learner.classes))["of_classes"]
    if counted != kept:
        raise ValueError(f"{counted} bytes in the table, {kept} in the state")
    modalities = sorted(method.memory.counts, key=list(MODALITIES).index)
    classes = {m: len(method.memory.labels(m)) for m in modalities}
    of_class = {m: [sizes.get(m, 0) // count for sizes in found] for m, count in classes.items()}
    # A pooled covariance of few samples has a shorter factor than others.
    pooled = (method.options.modality_rank + 2) * 4 * tensors[f"memory/pooled/{modalities[0]}/mean"].numel()
    of_modality = {m: [bytes_of(tensors, PROMPT)[m], pooled] for m in modalities}
    return "\n\n".join(
        [
            table(["bytes a class", *CLASS_PARTS, "all"], {m: [*row, sum(row)] for m, row in of_class.items()}),
            table(["bytes a modality", "prompt", "pooled covariance"], of_modality),
        ]
    )


def learn() -> Learner:
    """Return COMM after one task of each of the demo's modalities, on the CPU."""
    learner = Learner("embedded", "comm", options=UNTRAINED, device="cpu")
    known: set[str] = set()
    for task in make_stream(load_config("demo", STREAM)).tasks:
        if task.modality not in known:
            learner.learn(task)
            known.add(task.modality)
    return learner


if __name__ == "__main__":
    print(text(learn()))
