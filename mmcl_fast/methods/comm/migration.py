"""States of COMM that earlier versions wrote, in the form of today."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmcl_fast.methods.comm.memory import FeatureMemory
from mmcl_fast.methods.comm.options import CommOptions
from mmcl_fast.methods.comm.penalty_share import PenaltyShare
from mmcl_fast.methods.shared.prompt_and_classifier import strip_prefix


def migrate_state(
    options: CommOptions, tensors: dict[str, Tensor], values: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Add what older states lack, and convert a memory that lists classes one by one into the blocks of today."""
    sizes = {k.removeprefix("prompt/"): p.numel() for k, p in tensors.items() if k.startswith("prompt/")}
    missing: dict[str, Any] = {"token_means": {}, "prompts_pay": {}, "token_widths": {}, "prompt_sizes": sizes}
    values = missing | {"reading_widths": {}} | values
    tensors = {"penalty_share": PenaltyShare().sums} | tensors
    if not isinstance(values["memory"]["classes"], list):
        return tensors, values
    memory = FeatureMemory(options.class_rank, options.modality_rank, options.shrink)
    memory.load_state(strip_prefix("memory/", tensors), values["memory"])
    memory_tensors, memory_values = memory.state()
    tensors = {k: v for k, v in tensors.items() if not k.startswith("memory/")}
    return tensors | {f"memory/{k}": v for k, v in memory_tensors.items()}, values | {"memory": memory_values}
