"""COMM with no more than its paper's abstract says (Jin and Kim, arXiv 2503.08064): a row to compare with.

It leaves out what this package adds:

- scales and shifts of tokens, reading prompts, and a classifier to train prompts with
- mean tokens of old classes
- the closed form of re-alignment
- the test of whether prompts pay
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmcl_fast.methods.comm.method import Comm
from mmcl_fast.methods.comm.options import ClassTargets, CommOptions, Realignment, RealignmentStart
from mmcl_fast.methods.shared.options import ReadingPromptCount, TokenScaleShift


class CommAbstractOptions(CommOptions):
    """COMM's options with other defaults."""

    prompts: bool | Literal["auto"] = Field(True, description=CommOptions.model_fields["prompts"].description)
    token_scale_shift: TokenScaleShift = False
    class_targets: ClassTargets = "texts"
    reading_prompts: ReadingPromptCount = 0
    token_means: bool = Field(False, description=CommOptions.model_fields["token_means"].description)
    realignment: Realignment = "trained"
    start: RealignmentStart = "zero"
    rank: int = Field(32, ge=1, description=CommOptions.model_fields["rank"].description)


class CommAbstract(Comm):
    """COMM, abstract only; see the module's docstring."""

    name = "comm_abstract"
    Options = CommAbstractOptions
