"""The test of whether prompts pay: it holds out whole samples with all of their views, and ends early."""

import pytest
import torch

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods import TaskData
from mmcl_fast.methods.comm import prompt_learning
from mmcl_fast.methods.shared.embedding import embed_all
from tests.methods.comm.test_method import task
from tests.methods.comm.test_prompt_learning import AUTO, classes_of, comm, halves
from tests.toy import ToyEncoder


def with_two_views(task: TaskData) -> TaskData:
    """A second view of each sample that is equal to the first."""
    tokens = Tokens(task.tokens.tokens.repeat(2, 1, 1), task.tokens.query.repeat(2, 1))
    return TaskData(task.index, task.modality, tokens, task.labels.repeat(2), task.classes, views=2)


def test_no_view_of_a_held_out_sample_is_fitted(monkeypatch):
    encoder, found = ToyEncoder(), []
    method = comm(encoder, **AUTO)
    one = halves(encoder, 0, "image", [0, 1])
    real = prompt_learning.held_out_error
    monkeypatch.setattr(
        prompt_learning,
        "held_out_error",
        lambda x, y, c, fitted, held: (found.append((fitted, held)), real(x, y, c, fitted, held))[1],
    )
    method.learn(with_two_views(one), classes_of(encoder))
    fitted, held = found[0]
    count = len(one.labels)
    assert len(held) == count // 4 and int(held.max()) < count
    assert sorted(torch.cat([fitted, held, held + count]).tolist()) == list(range(2 * count))


def test_leave_one_out_errors_do_not_see_other_views():
    encoder = ToyEncoder()
    one = halves(encoder, 0, "image", [0, 1])
    errors = []
    for data in (one, with_two_views(one)):
        method = comm(encoder, **AUTO)
        method.learn(data, classes_of(encoder))
        errors.append(method.prompts_pay["image"][0]["leave_one_out"])
    assert errors[0] == pytest.approx(errors[1], abs=1e-6) and errors[0] > 0.05


@pytest.mark.parametrize("fall, halves_done", [(0.02, 1), (0.03, 2), (0.2, 2)])
def test_the_test_ends_after_half_of_the_steps_where_the_error_has_not_fallen(monkeypatch, fall, halves_done):
    """Errors of 0.3 under the bare head, and ``fall`` less under any prompt."""
    errors = iter([0.3] + 2 * [0.3 - fall])
    monkeypatch.setattr(prompt_learning, "held_out_error", lambda *args: next(errors))
    method = comm(ToyEncoder(), **AUTO)
    trained = {}

    class Steps:
        stop_signal = 0

        def begin(self, loop): ...

        def step(self, loop, state):
            trained[loop] = trained.get(loop, 0) + 1

        def end(self, loop, result): ...

    method.checkpoints = Steps()
    method.learn(halves(method.encoder, 0, "image", [0, 1]), classes_of(method.encoder))
    (test,) = method.prompts_pay["image"]
    assert trained["test of prompts"] == 30 * halves_done
    assert test["pays"] == (fall == 0.2) == ("image" in method.bank.prompts) and test["prompted"] == 0.3 - fall


def test_a_first_prompt_keeps_classes_in_place_that_were_learned_without_one():
    """Earlier tasks of the modality needed no prompt. Their classes must not be lost when a later task does."""
    encoder, turned = ToyEncoder(), {}
    clear = task(encoder, 0, "image", [0, 1], 0, per_class=40)
    clear.tokens.tokens[clear.labels == 0] += 3.0
    for beta in (0.0, 4.0):
        method = comm(encoder, **AUTO, self_regularisation=beta)
        method.learn(clear, classes_of(encoder))
        assert not method.bank.prompts
        method.learn(halves(encoder, 1, "image", [2, 3]), classes_of(encoder))
        means = torch.stack([clear.tokens.tokens[clear.labels == c].mean(0) for c in (0, 1)])
        z = [
            embed_all(method.bank.head, Tokens(means, torch.zeros(2, 48)), "image", prompts)
            for prompts in ([], [method.bank.prompts["image"]])
        ]
        turned[beta] = float((1 - torch.nn.functional.cosine_similarity(*z)).mean())
    assert turned[4.0] < 0.5 * turned[0.0], turned
