"""COMM with no more than its paper's abstract says (Jin and Kim, arXiv 2503.08064): a row to compare with.

It leaves out what this package adds: scales and shifts of tokens, learned class targets, mean tokens, the closed form
of re-alignment, and the test of whether prompts pay.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmcl_fast.methods.comm.method import Comm
from mmcl_fast.methods.comm.options import CommOptions


class CommAbstractOptions(CommOptions):
    """COMM's options with other defaults."""

    prompts: bool | Literal["auto"] = Field(True, description=CommOptions.model_fields["prompts"].description)
    token_scale_shift: bool = Field(False, description=CommOptions.model_fields["token_scale_shift"].description)
    class_targets: Literal["texts", "learned"] = Field(
        "texts", description=CommOptions.model_fields["class_targets"].description
    )
    token_means: bool = Field(False, description=CommOptions.model_fields["token_means"].description)
    start: Literal["ridge", "zero"] = Field("zero", description=CommOptions.model_fields["start"].description)
    rank: int = Field(32, ge=1, description=CommOptions.model_fields["rank"].description)


class CommAbstract(Comm):
    """COMM, abstract only; see the module's docstring."""

    name = "comm_abstract"
    Options = CommAbstractOptions
