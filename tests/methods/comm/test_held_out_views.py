"""The test of whether prompts pay holds out whole samples, with all of their views."""

import torch

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods import TaskData
from mmcl_fast.methods.comm import prompt_learning
from tests.methods.comm.test_prompt_learning import AUTO, classes_of, comm, halves
from tests.toy import ToyEncoder


def test_no_view_of_a_held_out_sample_is_fitted(monkeypatch):
    encoder, found = ToyEncoder(), []
    method = comm(encoder, **AUTO)
    one = halves(encoder, 0, "image", [0, 1])
    tokens = Tokens(one.tokens.tokens.repeat(2, 1, 1), one.tokens.query.repeat(2, 1))
    real = prompt_learning.held_out_error
    monkeypatch.setattr(
        prompt_learning,
        "held_out_error",
        lambda x, y, c, fitted, held: (found.append((fitted, held)), real(x, y, c, fitted, held))[1],
    )
    method.learn(TaskData(0, "image", tokens, one.labels.repeat(2), one.classes, views=2), classes_of(encoder))
    fitted, held = found[0]
    count = len(one.labels)
    assert len(held) == count // 4 and int(held.max()) < count
    assert sorted(torch.cat([fitted, held, held + count]).tolist()) == list(range(2 * count))
