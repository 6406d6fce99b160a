import warnings

import pytest
import torch
import torch.nn.functional as F

from mmcl_fast import distributed
from mmcl_fast.encoders.base import Tokens
from mmcl_fast.errors import ConfigError, RunError
from mmcl_fast.methods import Classes, TaskData, make_options, upgrade_options
from mmcl_fast.methods.baselines import ranpac
from mmcl_fast.methods.baselines.ranpac import LAMBDAS, RanPac
from mmcl_fast.methods.shared import triangular_ridge
from mmcl_fast.option_fields import FormerNameWarning
from tests.methods import end_to_end
from tests.methods.baselines.closed_form import WIDTH, add, build, features, learned
from tests.toy import ToyEncoder

OPTIONS = {"projections": 300, "epochs": 2, "batch_size": 8}
BARE = {"adaptation": "none"}
LABELS = torch.arange(120) % 6
EVERYTHING = [torch.arange(120)]


def direct(h, labels, penalty):
    """(G + lambda I)^-1 C from all samples at once."""
    h = h.double()
    gram = h.T @ h + penalty * torch.eye(h.shape[1]).double()
    return torch.linalg.solve(gram, h.T @ F.one_hot(labels, 6).double())


def ridge_gcv(h, labels, penalty, rho=1.1):
    h, y = h.double(), F.one_hot(labels, 6).double()
    hat = h @ torch.linalg.solve(h.T @ h + penalty * torch.eye(h.shape[1]).double(), h.T)
    return float(len(h) * (y - hat @ y).square().sum() / (len(h) - rho * hat.trace()) ** 2)


@pytest.mark.parametrize("projections", [50, 400])  # fewer features than samples, and more
def test_the_weights_are_the_joint_ridge_solution_on_random_features_in_any_order(projections):
    u = features(LABELS, spread=3.0)
    orders = [[range(40), range(40, 80), range(80, 120)], [range(80, 120), range(80)]]
    for parts in orders:
        rows = [torch.tensor(list(part)) for part in parts]
        method = learned("ranpac", u, LABELS, 6, rows, projections=projections, penalty=0.01, **BARE)
        h = (u @ method.random).clamp(min=0)
        penalty = 0.01 * h.double().square().sum() / projections
        torch.testing.assert_close(method.weight(), direct(h, LABELS, penalty).float(), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(method.class_scores(u), h @ method.weight(), rtol=1e-4, atol=1e-4)
        assert method.count.tolist() == [1] * 6
    assert method.random.abs().mean() == pytest.approx((2 / torch.pi) ** 0.5, rel=0.05)  # of N(0, 1)


def test_the_penalty_has_the_least_gcv():
    u = features(LABELS, spread=6.0)
    method = learned("ranpac", u, LABELS, 6, EVERYTHING, projections=80, **BARE)
    h = (u @ method.random).clamp(min=0)
    system = method.moments.system()
    grid = [system.scale * 10 ** (k / 8) for k in range(-40, 25)]
    values = [ridge_gcv(h, LABELS, penalty) for penalty in grid]
    torch.testing.assert_close(
        method.weight(), direct(h, LABELS, grid[values.index(min(values))]).float(), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("noise", [False, True])
def test_the_width_with_the_least_gcv_is_chosen(noise, monkeypatch):
    monkeypatch.setattr(ranpac, "WIDTHS", (4, 60, 200))
    u = features(LABELS, spread=3.0)
    method = build("ranpac", projections="auto", **BARE)
    assert method.random.shape == (WIDTH, 200)
    if noise:  # the features from the 60th on read nothing but columns of noise, much enlarged
        u[:, 36:] = torch.randn(120, 36, generator=torch.Generator().manual_seed(1))
        method.random[36:, :60] = method.random[:36, 60:] = 0
        method.random[36:, 60:] *= 100
    for index, rows in enumerate((torch.arange(50), torch.arange(50, 120))):
        add(method, u[rows], LABELS[rows], 6, index)
    h = (u @ method.random).clamp(min=0)
    least = {}
    for width in (4, 60, 200):
        penalty = method.moments.system(width).best_penalty()
        least[width] = ridge_gcv(h[:, :width], LABELS, penalty), penalty
    best = min(least, key=least.get)
    assert best == (60 if noise else 200)
    weight = method.weight()
    torch.testing.assert_close(weight, direct(h[:, :best], LABELS, least[best][1]).float(), rtol=1e-2, atol=1e-4)
    torch.testing.assert_close(method.class_scores(u), h[:, :best] @ weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [20, 60])  # fewer samples than features, and more
def test_held_out_takes_the_lambda_with_the_least_error_on_a_fifth_of_the_last_task(count):
    u, labels = features(LABELS, spread=8.0), LABELS[:count]
    method = learned(
        "ranpac",
        u,
        LABELS,
        6,
        [torch.arange(count, 120), torch.arange(count)],
        penalty="held_out",
        projections=45,
        **BARE,
    )
    h = (u[:count] @ method.random).clamp(min=0).double()
    order = torch.randperm(count, generator=method.generator(1, 6))
    fitted, held = order[: count - count // 5], order[count - count // 5 :]
    y = F.one_hot(labels, 6).double()
    errors = []
    for value in LAMBDAS:
        kernel = h[fitted] @ h[fitted].T + value * torch.eye(len(fitted)).double()
        found = h[held] @ h[fitted].T @ torch.linalg.solve(kernel, y[fitted])
        errors.append(float((found - y[held]).square().sum()))
    assert method.penalty == LAMBDAS[errors.index(min(errors))] and 1e-2 <= method.penalty <= 1e6
    h = (u @ method.random).clamp(min=0)
    torch.testing.assert_close(method.weight(), direct(h, LABELS, method.penalty).float(), rtol=1e-3, atol=1e-5)
    few = learned("ranpac", u, LABELS, 6, [torch.arange(4)], penalty="held_out", projections=45, **BARE)
    assert few.penalty == 1.0 and few.moments.count == 4


def test_the_state_has_no_more_rows_than_samples_and_one_factor():
    u = features(LABELS)
    method = learned("ranpac", u, LABELS, 6, [torch.arange(30), torch.arange(30, 50)], projections=400, **BARE)
    shapes = {k: (tuple(v.shape), v.dtype) for k, v in method.state()[0].items()}
    single = torch.float32
    assert shapes == {"random": ((WIDTH, 400), single), "factor": ((50, 400), single), "targets": ((50, 6), single)}


def task(encoder, index, modality, count=24):
    centres = torch.randn(9, 1, 16, generator=torch.Generator().manual_seed(99))[[2 * index, 2 * index + 1]]
    noise = torch.randn(count, 4, 16, generator=torch.Generator().manual_seed(index))
    tokens = 0.3 * noise + centres.repeat(count // 2, 1, 1)
    query = F.pad((tokens @ encoder.query["vision"]).relu().mean(1), (0, 24))
    labels = torch.tensor([2 * index, 2 * index + 1]).repeat(count // 2)
    return TaskData(index, modality, Tokens(tokens, query), labels, labels.unique().tolist())


def known(count):
    names = [str(i) for i in range(count)]
    return Classes([("image", n) for n in names], names, ToyEncoder().text(names))


def test_only_the_first_task_of_a_modality_trains_a_prompt_with_scales_and_shifts():
    encoder = ToyEncoder()
    method = RanPac(encoder, make_options("ranpac", OPTIONS))
    for index, modality in enumerate(("image", "depth", "image")):
        method.learn(task(encoder, index, modality), known(6))
        if index == 1:
            prompts = {name: prompt.clone() for name, prompt in method.reader.bank.prompts.items()}
    assert method.reader.bank.prompts.keys() == {"image", "depth"}
    assert all(torch.equal(method.reader.bank.prompts[name], prompt) for name, prompt in prompts.items())
    _, scale_shift = method.reader.bank.head.split(prompts["image"], "image")
    assert len(scale_shift) == 4 * 2 * 16 and scale_shift.abs().max() > 0


@pytest.mark.parametrize("options", [{"features": "q"}, {"projections": "auto", **BARE}], ids=str)
def test_learns_without_a_first_phase(options, tmp_path, monkeypatch):
    monkeypatch.setattr(ranpac, "WIDTHS", (100, 300))
    learner, tasks = end_to_end.learned(tmp_path, "ranpac", OPTIONS | options)
    end_to_end.check_learning(learner, tasks, last=50)
    end_to_end.check_predictions_by_instance(learner, tasks)
    end_to_end.check_state(learner, tasks, tmp_path)


@pytest.mark.parametrize("largest", [3000, 0])
def test_both_ways_to_solve_learn_on_to_the_same_state(largest, tmp_path, monkeypatch):
    monkeypatch.setattr(triangular_ridge, "LARGEST_EIGENPROBLEM", largest)
    learner, tasks = end_to_end.learned(tmp_path, "ranpac", {"projections": 30, **BARE})
    end_to_end.check_learning(learner, tasks, last=40)
    end_to_end.check_state(learner, tasks, tmp_path)


def test_classes_never_trained_and_several_processes(monkeypatch):
    encoder, classes = ToyEncoder(), known(4)
    method = RanPac(encoder, make_options("ranpac", OPTIONS))
    data = task(encoder, 0, "image")
    few = Classes(classes.keys[:2], classes.texts[:2], classes.embedding[:2])
    assert method.scores(data.tokens, "image", classes, given=True).isfinite().all()  # zero-shot
    method.learn(data, few)
    scores = method.scores(data.tokens, "image", classes, given=False)
    assert scores[:, 2:].eq(float("-inf")).all() and scores[:, :2].isfinite().all()
    assert (scores.argmax(1) == data.labels).float().mean() > 0.9
    bare = RanPac(encoder, make_options("ranpac", OPTIONS | BARE))
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match="'ranpac': learns in one process"):
        bare.learn(data, few)


# ---- earlier versions -----------------------------------------------------------------------------------------------

FORMER = {"projections": 40, "prompt_length": 8, "epochs": 20, "batch_size": 32, "lr": 0.01, "classifier_lr": 0.003}


@pytest.mark.parametrize(
    ("former", "features", "adaptation", "penalty"),
    [
        ({"source": "tuned", "held_out": "all"}, "zq", "prefix", "auto"),
        ({"source": "zq", "held_out": "task"}, "zq", "none", "held_out"),
        ({"source": "q", "held_out": "all"}, "q", "none", "auto"),
    ],
    ids=str,
)
def test_options_of_earlier_versions_are_taken(former, features, adaptation, penalty):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a saved run
        options = make_options("ranpac", upgrade_options("ranpac", {**FORMER, **former}))
    assert (options.features, options.adaptation, options.penalty) == (features, adaptation, penalty)
    with pytest.warns(FormerNameWarning, match="source is called features"):
        written = make_options("ranpac", {"source": former["source"]})
    assert (written.features, written.adaptation) == (features, adaptation)
    assert make_options("ranpac", {"features": "zq"}).adaptation == "scale_shift"


def test_a_state_of_an_earlier_version_is_converted_or_refused():
    u = features(LABELS, spread=3.0)
    options = upgrade_options("ranpac", {**FORMER, "source": "zq", "held_out": "all"})
    method = RanPac(ToyEncoder(), make_options("ranpac", options), seed=3)
    h = (u @ method.random).clamp(min=0).double()
    y = F.one_hot(LABELS, 6).double()
    state = {"random": method.random.clone(), "prompt/vision": torch.zeros(3)}
    for name, rows in (("fitted", slice(96)), ("held", slice(96, 120))):
        state |= {f"{name}/gram": h[rows].T @ h[rows], f"{name}/cross": h[rows].T @ y[rows]}
    values = {"penalty": 10.0, "counts": [96, 24]}
    method.load_state(*method.migrate_state(state, values))
    fresh = learned("ranpac", u, LABELS, 6, EVERYTHING, projections=40, **BARE)
    torch.testing.assert_close(method.weight(), fresh.weight(), rtol=1e-3, atol=1e-4)
    assert method.moments.count == 120
    assert method.migrate_state(*fresh.state()) == fresh.state()
    tuned = RanPac(ToyEncoder(), make_options("ranpac", FORMER | {"features": "tuned"}))
    with pytest.raises(RunError, match='with source = "tuned".*learn the run anew'):
        tuned.migrate_state(state, values)
