"""The ridge classifier: its features, its penalty, and states of earlier versions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmcl_fast.methods import make_options
from mmcl_fast.methods.baselines.ridge import RidgeMethod
from mmcl_fast.option_fields import FormerNameWarning
from tests.methods import end_to_end
from tests.methods.baselines.closed_form import WIDTH, build, features, learned
from tests.toy import ToyEncoder

LABELS = torch.tensor([0, 2, 1, 2, 0, 4] * 20)
SEEN = [0, 1, 2, 4]


@pytest.mark.parametrize("penalty", [0.1, "auto"])
def test_it_is_the_joint_solution_in_any_order(penalty):
    u = features(LABELS, spread=5.0)
    y = F.one_hot(LABELS).double()
    x = u.double()
    if penalty == "auto":
        method = learned("ridge", u, LABELS, 5, [torch.arange(120)])
        chosen = method.ridge.spectrum().best_penalty()
        rows, shift = x - x.mean(0), y.mean(0)
        weight = torch.inverse(rows.T @ rows + chosen * torch.eye(WIDTH).double()) @ rows.T @ (y - shift)
    else:
        rows, shift = F.pad(x, (0, 1), value=1.0), torch.zeros(5).double()
        gram = rows.T @ rows
        weight = torch.inverse(gram + penalty * gram.diagonal().mean() * torch.eye(WIDTH + 1).double()) @ rows.T @ y
    for parts in ([torch.arange(120)], list(torch.randperm(120).split(50))):
        method = learned("ridge", u, LABELS, 5, parts, penalty=penalty)
        torch.testing.assert_close(method.class_scores(u), (rows @ weight + shift).float(), rtol=1e-3, atol=1e-4)
        assert method.count.tolist() == [40, 20, 40, 0, 20]


def test_the_state_is_one_set_of_moments():
    method = learned("ridge", features(LABELS), LABELS, 5, [torch.arange(120)])
    tensors, values = method.state()
    assert {k: tuple(v.shape) for k, v in tensors.items()} == {"gram": (73, 73), "cross": (73, 5)} and values == {}
    assert method.class_state == ("cross",)


def test_a_state_and_options_of_an_earlier_version_give_the_same_scores():
    """Then the options were ``source`` and a number, and the state had the same two tensors."""
    u = features(LABELS)
    x = F.pad(u.double(), (0, 1), value=1.0)
    state = {"gram": x.T @ x, "cross": x.T @ F.one_hot(LABELS).double()}
    with pytest.warns(FormerNameWarning, match="source is called features"):
        options = make_options("ridge", {"source": "zq", "penalty": 0.005})
    method = RidgeMethod(ToyEncoder(), options)
    method.load_state(*method.migrate_state(state, {}))
    lift = 0.005 * state["gram"].diagonal().mean() * torch.eye(WIDTH + 1).double()
    direct = x @ torch.linalg.solve(state["gram"] + lift, state["cross"])
    torch.testing.assert_close(method.class_scores(u), direct.float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"features": "q"}, {"adaptation": "scale_shift", "epochs": 1, "batch_size": 16}], ids=str
)
def test_end_to_end(options, tmp_path):
    learner, tasks = end_to_end.learned(tmp_path, "ridge", options)
    for setting in ("agnostic", "given"):
        end_to_end.check_learning(learner, tasks, last=50, setting=setting)
    end_to_end.check_predictions_by_instance(learner, tasks)
    end_to_end.check_state(learner, tasks, tmp_path)


def test_the_default_reads_both_embedding_and_query():
    assert build("ridge").reader.width == WIDTH and build("ridge", features="q").reader.width == 48
