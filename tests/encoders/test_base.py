"""The encoder protocol: names that an encoder of a user may still have, and the tokens' shapes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmcl_fast.encoders.base import Tokens
from tests.toy import ToyEncoder


class WithMethod(ToyEncoder):
    """Written when ``trainable_modules`` was called ``above``."""

    def above(self):
        return [nn.Identity(), *super().above()]


class WithAttribute(ToyEncoder):
    """Written when ``num_prompted_blocks`` was called ``blocks``."""

    blocks = 3

    def __init__(self):
        super().__init__()
        del self.num_prompted_blocks  # ToyEncoder sets it


class WithAssignment(ToyEncoder):
    def __init__(self):
        super().__init__()
        self.blocks = 5


def test_the_old_names_of_an_encoder_still_work():
    for encoder in (WithMethod(), type("Heir", (WithMethod,), {})()):
        assert isinstance(encoder.trainable_modules()[0], nn.Identity) and isinstance(encoder.above()[0], nn.Identity)
    assert len(WithMethod().trainable_modules()) == 1 + len(ToyEncoder().trainable_modules())
    for encoder, count in ((ToyEncoder(), 2), (WithAttribute(), 3), (WithAssignment(), 5)):
        assert encoder.num_prompted_blocks == encoder.blocks == count
    assert len(ToyEncoder().above()) == len(ToyEncoder().trainable_modules()) == 4


def test_an_encoder_names_no_libraries_by_itself():
    assert ToyEncoder().trunk_libraries("image") == ()


def test_tokens_are_indexed_moved_and_rounded_together():
    tokens = Tokens(torch.randn(4, 3, 2), torch.randn(4, 5), torch.ones(4, 3).bool())
    assert len(tokens) == 4 and tokens.nbytes == 4 * (3 * 2 * 4 + 5 * 4 + 3)
    some = tokens[[2, 0]]
    assert torch.equal(some.tokens, tokens.tokens[[2, 0]]) and some.mask.shape == (2, 3) and some.query.shape == (2, 5)
    assert tokens.rounded().tokens.dtype == torch.bfloat16 and tokens.rounded().query.dtype == torch.float32
    assert tokens.to("meta").device.type == "meta" and Tokens(tokens.tokens, tokens.query)[:2].mask is None
    with pytest.raises(IndexError):
        tokens[[4]]
