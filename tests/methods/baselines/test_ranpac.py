import pytest
import torch
import torch.nn.functional as F

from mmcl_fast import distributed
from mmcl_fast.encoders.base import Tokens
from mmcl_fast.errors import ConfigError
from mmcl_fast.methods import Classes, TaskData, make_options
from mmcl_fast.methods.baselines.ranpac import LAMBDAS, RanPac, RidgeMoments, choose_lambda
from tests.methods import end_to_end
from tests.toy import ToyEncoder

OPTIONS = {"projections": 300, "epochs": 2, "batch_size": 8}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def task(encoder, index, classes, seed=0, count=40):
    centres = randn(9, 1, 16, seed=99)[classes].repeat(count, 1, 1)[:count]
    tokens = (0.3 * randn(count, 4, 16, seed=seed) + centres).float()
    query = F.pad((tokens @ encoder.query["vision"]).relu().mean(1), (0, 24))
    return TaskData(index, "image", Tokens(tokens, query), torch.tensor(classes).repeat(count)[:count], classes)


def known(count):
    encoder = ToyEncoder()
    names = [str(i) for i in range(count)]
    return encoder, Classes([("image", n) for n in names], names, encoder.text(names))


def direct(method, tasks, count):
    """(G + lambda I)^-1 C from all samples at once, by the inverse."""
    rows = torch.cat(
        [
            torch.cat(
                [F.normalize(method.encoder.head(t.tokens, None, "image"), dim=1), F.normalize(t.tokens.query, dim=1)],
                dim=1,
            )
            for t in tasks
        ]
    )
    h = (rows @ method.random).clamp(min=0).double()
    y = F.one_hot(torch.cat([t.labels for t in tasks]), count).double()
    return torch.inverse(h.T @ h + method.penalty * torch.eye(h.shape[1]).double()) @ h.T @ y


def test_the_weights_are_the_joint_ridge_solution_on_random_features_in_any_order():
    encoder, classes = known(6)
    tasks = [task(encoder, i, [2 * i, 2 * i + 1], seed=i) for i in range(3)]
    found = []
    for order in ([0, 1, 2], [2, 0, 1]):
        method = RanPac(encoder, make_options("ranpac", {"projections": 50, "source": "zq"}), seed=3)
        for i in order:
            method.learn(tasks[i], classes)
        method.penalty = 0.1
        method._weight = None
        torch.testing.assert_close(method.weight(), direct(method, tasks, 6).float(), rtol=1e-3, atol=1e-4)
        found.append(method)
    assert found[0].random.abs().mean() == pytest.approx((2 / torch.pi) ** 0.5, rel=0.05)  # of N(0, 1)


@pytest.mark.parametrize("count", [20, 60])  # fewer samples than features, and more
def test_lambda_has_the_least_squared_error_on_the_held_out_samples(count):
    centres, size = randn(3, 30, seed=1), 3.0
    labels = [torch.arange(n) % 3 for n in (count, 25)]
    rows = [centres[y] + size * randn(len(y), 30, seed=i) for i, y in enumerate(labels)]
    target = [F.one_hot(y, 3).double() for y in labels]
    errors = []
    for value in LAMBDAS:
        solved = torch.linalg.solve(rows[0].T @ rows[0] + value * torch.eye(30).double(), rows[0].T @ target[0])
        errors.append(float((rows[1] @ solved - target[1]).square().sum()))
    best = LAMBDAS[errors.index(min(errors))]
    assert 1 <= best <= 1e6  # the noise asks for some
    fitted, held = RidgeMoments(30), RidgeMoments(30)
    for part in (slice(0, 7), slice(7, None)):
        fitted.add(rows[0][part], labels[0][part], 3)
        held.add(rows[1][part], labels[1][part], 3)
    assert choose_lambda(fitted, held) == best


def test_lambda_is_chosen_on_all_held_out_samples_or_on_the_tasks():
    encoder, classes = known(6)
    tasks = [task(encoder, i, [2 * i, 2 * i + 1], seed=i) for i in range(2)] + [task(encoder, 2, [4], seed=2)]
    options = {"projections": 50, "source": "q"}
    everything, alone = (RanPac(encoder, make_options("ranpac", options | {"held_out": x})) for x in ("all", "task"))
    found = []
    for data in tasks:
        everything.learn(data, classes)
        alone.learn(data, classes)
        assert everything.penalty == choose_lambda(everything.fitted, everything.held)
        fresh = RanPac(encoder, make_options("ranpac", options))
        fresh.learn(data, classes)
        assert alone.penalty == fresh.penalty  # as if it were the first
        found.append((everything.penalty, alone.penalty))
    assert found[0][0] == found[0][1] and any(a != b for a, b in found[1:])
    assert (everything.fitted.count, everything.held.count) == (96, 24)
    few = RanPac(encoder, make_options("ranpac", options))
    few.learn(task(encoder, 1, [2, 3], count=4), classes)
    assert few.penalty == 1.0 and few.held.count == 0


def test_only_the_first_task_trains_a_prompt():
    encoder, classes = known(4)
    method = RanPac(encoder, make_options("ranpac", OPTIONS))
    method.learn(task(encoder, 0, [0, 1]), classes)
    prompt = method.bank.prompts["vision"].clone()
    fresh = method.bank.fresh("image", method.generator(0, 3))
    assert not torch.equal(prompt, fresh)
    method.learn(task(encoder, 1, [2, 3], seed=1), classes)
    assert list(method.bank.prompts) == ["vision"] and torch.equal(method.bank.prompts["vision"], prompt)
    bare = RanPac(encoder, make_options("ranpac", OPTIONS | {"source": "zq"}))
    bare.learn(task(encoder, 0, [0, 1]), classes)
    assert not bare.bank.prompts


@pytest.mark.parametrize("source", ["q", "zq"])
def test_learns_without_a_first_phase(source, tmp_path):
    end_to_end.check_learning(*end_to_end.learned(tmp_path, "ranpac", OPTIONS | {"source": source}), last=50)


def test_classes_never_trained_and_several_processes(monkeypatch):
    encoder, classes = known(4)
    method = RanPac(encoder, make_options("ranpac", OPTIONS))
    data = task(encoder, 0, [0, 1])
    few = Classes(classes.keys[:2], classes.texts[:2], classes.embedding[:2])
    assert method.scores(data.tokens, "image", classes, given=True).isfinite().all()  # zero-shot
    method.learn(data, few)
    scores = method.scores(data.tokens, "image", classes, given=False)
    assert scores[:, 2:].eq(float("-inf")).all() and scores[:, :2].isfinite().all()
    assert (scores.argmax(1) == data.labels).float().mean() > 0.9
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match="'ranpac': learns in one process"):
        method.learn(data, few)
