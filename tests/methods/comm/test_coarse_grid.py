"""The test of whether prompts pay: on a coarser grid, and without views of held-out samples."""

import pytest
import torch
import torch.nn.functional as F

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods import TaskData
from mmcl_fast.methods.comm import prompt_learning
from mmcl_fast.methods.comm.coarse_grid import halve_grid
from tests.methods.comm.test_prompt_learning import AUTO, classes_of, comm, halves
from tests.toy import WIDTH, ToyEncoder


def test_a_coarser_grid_averages_neighbours_of_each_frame():
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    frame = torch.stack([rows, columns], -1).flatten(0, 1)
    tokens = Tokens(torch.cat([frame, frame + 100]).expand(3, -1, -1), torch.zeros(3, 1))
    coarse = halve_grid(tokens, 2)
    expected = torch.tensor([[0.5 + 2 * r, 0.5 + 2 * c] for r in range(3) for c in range(3)])
    assert torch.equal(coarse.tokens, torch.cat([expected, expected + 100]).expand(3, -1, -1))
    assert coarse.query is tokens.query
    assert halve_grid(Tokens(torch.ones(2, 49, 5), torch.zeros(2, 1)), 1).tokens.shape == (2, 16, 5)


@pytest.mark.parametrize(
    ("count", "frames", "mask"),
    [(16, 1, None), (50, 1, None), (49, 2, None), (49, 1, torch.ones(2, 49, dtype=torch.bool))],
    ids=["few cells", "a class token", "frames of no grid", "words"],
)
def test_other_tokens_stay_as_they_are(count, frames, mask):
    tokens = Tokens(torch.ones(2, count, 3), torch.zeros(2, 1), mask)
    assert halve_grid(tokens, frames) is tokens


def finer(data, encoder):
    """The same task with 36 tokens a sample: its two halves are the upper and the lower half of a grid."""
    x = data.tokens.tokens
    x = torch.cat([x[:, :8].repeat(1, 3, 1)[:, :18], x[:, 8:].repeat(1, 3, 1)[:, :18]], dim=1)
    query = F.pad((x.mean(1) @ encoder.query["vision"]).relu(), (0, 24))
    return TaskData(data.index, data.modality, Tokens(x, query), data.labels, data.classes)


def test_the_test_has_fewer_tokens_and_learning_has_all(monkeypatch):
    encoder, seen = ToyEncoder(), []
    method = comm(encoder, **AUTO)
    head = encoder.head
    monkeypatch.setattr(encoder, "head", lambda t, p, m: (seen.append(t.tokens.shape[1]), head(t, p, m))[1])
    method.learn(finer(halves(encoder, 0, "image", [0, 1]), encoder), classes_of(encoder))
    assert method.prompts_pay["image"][0]["pays"] and {9, 36} <= set(seen)
    prompt = method.bank.prompts["image"]
    cells, _ = method.bank.head.cells_and_frames(prompt, "image", WIDTH)
    assert len(cells) == 36 and bool(cells.any())
    # A modality that begins from another one's prompt is tested with that prompt's table on the coarser grid.
    borrowed, size = [], prompt.numel() - 27 * 2 * WIDTH
    train = prompt_learning.PromptLearner._train
    monkeypatch.setattr(
        prompt_learning.PromptLearner,
        "_train",
        lambda self, start, *rest: (borrowed.append((rest[-1], start)), train(self, start, *rest))[1],
    )
    method.learn(finer(halves(encoder, 1, "depth", [6, 7], seed=3), encoder), classes_of(encoder))
    (name, start) = borrowed[0]
    assert name == "test of prompts" and start.numel() == size and bool(start[-9 * 2 * WIDTH :].any())


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
