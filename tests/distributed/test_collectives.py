"""Collectives of a process that is alone: they return its own values and exchange nothing."""

from __future__ import annotations

import pytest
import torch

from mmcl_fast import distributed
from mmcl_fast.errors import RunError


def test_gradients_of_one_process_stay_as_they_are():
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    loss = (parameter**2).sum()
    loss.backward()
    total, stop = distributed.all_reduce_gradients([parameter], loss, 15)
    assert parameter.grad.tolist() == [2.0, 4.0]
    assert (total.item(), stop.item()) == (5.0, 15.0)
    assert not total.requires_grad


def test_values_of_one_process_come_back():
    rows = torch.arange(6.0).reshape(3, 2)
    assert distributed.broadcast_object("a") == "a"
    assert distributed.all_gather_object("a") == ["a"]
    assert torch.equal(distributed.all_gather_rows(rows, [3]), rows)
    assert torch.equal(distributed.tree_sum(3, lambda i: rows[i].clone(), rows[0]), rows.sum(0))


def test_an_error_of_one_process_leaves_the_block():
    with pytest.raises(RunError, match="broken"), distributed.propagate_errors():
        raise RunError("broken")
