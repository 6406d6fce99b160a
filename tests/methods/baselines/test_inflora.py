import pytest
import torch
from torch import nn

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods import Classes, TaskData, make_options
from mmcl_fast.methods.baselines.inflora import InfLora, OldInputs
from mmcl_fast.methods.shared.training_steps import NoCheckpoints
from tests.toy import WIDTH, ToyEncoder

QUICK = {"epochs": 4, "batch_size": 8, "rank": 3, "lr": 0.02}
D = 12


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(count=40, seed=0, rank=D):
    """H ``[d, n]`` float64, with directions of very different sizes."""
    sizes = torch.linspace(0, 3, rank).exp()
    return (randn(D, rank, seed=seed + 50) * sizes @ randn(rank, count, seed=seed)).double()


def moment(h):
    return h @ h.T / h.shape[1]


def nothing():
    return OldInputs(torch.zeros(D, 0), False)


def projector(old):
    """The projection onto the inputs of old tasks."""
    basis = old.basis.double()
    return torch.eye(D, dtype=torch.float64) - basis @ basis.T if old.complement else basis @ basis.T


def span(rows):
    return rows.T.double() @ rows.double()


def task(index, classes, *, count=8, plain=False, modality="image"):
    """Random pictures around class centres. ``plain``: a picture's tokens are all alike."""
    labels = torch.tensor(classes).repeat_interleave(count)
    centre = randn(len(classes), 1, WIDTH, seed=index).repeat_interleave(count, 0)
    noise = torch.zeros(len(labels), 4, WIDTH) if plain else 0.7 * randn(len(labels), 4, WIDTH, seed=index + 9)
    return TaskData(index, modality, Tokens(centre + noise, torch.zeros(len(labels), 48)), labels, classes)


def classes(count):
    keys = [("image", str(c)) for c in range(count)]
    return Classes(keys, [k[1] for k in keys], ToyEncoder().text([k[1] for k in keys]))


def learned(tasks, **options):
    method = InfLora(ToyEncoder(), make_options("inflora", {**QUICK, **options}))
    for data in tasks:
        method.learn(data, classes(max(data.classes) + 1))
    return method


# ---- B_t -------------------------------------------------------------------------------------------------------


def test_the_first_tasks_subspace_is_that_of_its_inputs_main_directions():
    h = inputs()
    b = nothing().design(moment(h), 4)
    u = torch.linalg.svd(h).U[:, :4]
    torch.testing.assert_close(span(b), u @ u.T, rtol=0, atol=1e-6)
    torch.testing.assert_close(b @ b.T, torch.eye(4), rtol=0, atol=1e-6)


@pytest.mark.parametrize("energy", [0.9, 0.999], ids=["few", "most"])
def test_later_subspaces_are_the_main_directions_orthogonal_to_old_inputs(energy):
    old, h = nothing().extend(moment(inputs()), energy), inputs(seed=1)
    assert old.complement == (energy > 0.95)
    b = old.design(moment(h), 2)
    rest = h - projector(old) @ h
    u = torch.linalg.svd(rest).U[:, :2]
    torch.testing.assert_close(span(b), u @ u.T, rtol=0, atol=1e-5)
    torch.testing.assert_close(b @ b.T, torch.eye(2), rtol=0, atol=1e-6)
    assert (b.double() @ projector(old)).abs().max() < 1e-6


def test_a_subspace_has_no_more_directions_than_are_free():
    old = nothing().extend(moment(inputs()), 1.0)
    assert old.complement and old.basis.shape == (D, 0)
    assert old.design(moment(inputs(seed=1)), 4).shape == (0, D)


# ---- M ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("energy", [0.0, 0.6, 0.95, 0.999])
def test_old_inputs_grow_by_the_fewest_directions_that_hold_the_energy(energy):
    old = nothing()
    for seed in range(3):
        h, before = inputs(seed=seed), projector(old)
        rest = h - before @ h
        u, s, _ = torch.linalg.svd(rest, full_matrices=False)
        count = 0
        while (before @ h).square().sum() + s[:count].square().sum() < energy * h.square().sum():
            count += 1
        old = old.extend(moment(h), energy)
        torch.testing.assert_close(projector(old), before + u[:, :count] @ u[:, :count].T, rtol=0, atol=1e-4)
        assert (projector(old) @ h).square().sum() >= (energy - 1e-6) * h.square().sum()
    assert (projector(old).trace() > 0.5) == (energy > 0)


def test_the_smaller_of_span_and_complement_is_kept():
    old = nothing()
    for seed in range(6):
        old = old.extend(moment(inputs(seed=seed, rank=2)), 1.0)
        dims = round(float(projector(old).trace()))
        assert dims == 2 * (seed + 1) and old.basis.shape == (D, min(dims, D - dims))
        assert old.complement == (dims > D / 2)
        torch.testing.assert_close(old.basis.T @ old.basis, torch.eye(old.basis.shape[1]), rtol=0, atol=1e-5)


# ---- learning ----------------------------------------------------------------------------------------------------


def test_a_task_starts_from_the_weights_before_it_and_moves_them_in_its_subspace_alone():
    tasks = [task(0, [0, 1]), task(1, [2, 3])]
    method = learned(tasks[:1])
    before = method.updates["vision"].clone()
    designed = method._design(tasks[1], before)
    method.options = make_options("inflora", {**QUICK, "epochs": 0})
    method.learn(tasks[1], classes(4))
    torch.testing.assert_close(method.updates["vision"], before)  # A_t = 0
    method = learned(tasks)
    moved = (method.updates["vision"] - before).split([w.size for w in method.head.weights[:2]])
    for i, change in enumerate(moved):
        change = change.view(2 * WIDTH, WIDTH)
        assert change.norm() > 0.1
        torch.testing.assert_close(change @ span(designed[i]).float(), change, rtol=0, atol=1e-5)
        assert torch.equal(method.factors[i][1][3:], designed[i])  # B_t is not trained


def test_old_inputs_do_not_feel_later_branches():
    """Plain pictures span three directions of each block's inputs, so nothing of them is left out of M."""
    first, later = task(0, [0, 1, 2], plain=True), [task(1, [3, 4]), task(2, [5, 6])]
    z = {}
    for energy in (0.0, 1 - 1e-6):
        method = learned([first], energy=energy)
        before = method.embedding_cache.embed_with_prompt(
            method.head, first.tokens, "image", method.updates["vision"]
        ).clone()
        if energy:
            assert [old.basis.shape[1] for old in method.old_inputs.values()] == [3, 3]
        for data in later:
            method.learn(data, classes(7))
        if energy:
            later_inputs = method.old_inputs.values()
            assert all(old.complement for old in later_inputs)
        z[energy] = (method._embed(first.tokens, "image") - before).abs().max()
    assert z[1 - 1e-6] < 1e-4 and z[0.0] > 0.05


def test_branches_add_up():
    method = learned([task(0, [0, 1]), task(1, [2, 3])], energy=0.8)
    for i, part in enumerate(method.updates["vision"].split([w.size for w in method.head.weights[:2]])):
        a, b = method.factors[i]
        assert a.shape == (2 * WIDTH, 6) and b.shape == (6, WIDTH)
        expected = a[:, :3] @ b[:3] + a[:, 3:] @ b[3:]
        torch.testing.assert_close(part.view(2 * WIDTH, WIDTH), expected)


def test_factors_that_outgrow_the_update_are_multiplied_out():
    a, b = InfLora._join((randn(20, 5), randn(5, 7)), randn(20, 2, seed=1), randn(2, 7, seed=2))
    assert a.shape == (20, 7) and b.shape == (7, 7)
    c, d = InfLora._join((a, b), randn(20, 2, seed=3), randn(2, 7, seed=4))
    assert c.shape == (20, 7) and torch.equal(d, torch.eye(7))
    torch.testing.assert_close(c, a @ b + randn(20, 2, seed=3) @ randn(2, 7, seed=4))


def test_with_no_free_direction_only_the_classifier_learns():
    method = learned([task(0, [0, 1]), task(1, [2, 3])], energy=1.0, rank=WIDTH)
    assert all(len(method.factors[i][1]) == WIDTH for i in (0, 1))
    before, weight = method.updates["vision"].clone(), method.classifier.weight.clone()
    method.learn(task(2, [4, 5]), classes(6))
    assert torch.equal(method.updates["vision"], before)
    assert method.classifier.weight[4:].abs().min(1).values.max() > 0
    assert torch.equal(method.classifier.weight[:4], weight)


def test_the_encoder_is_not_changed_and_towers_are_apart():
    tasks = [task(0, [0, 1]), task(1, [2, 3], modality="text")]
    method = learned(tasks)
    state, fresh = (
        nn.ModuleList(encoder.trainable_modules()).state_dict() for encoder in (method.encoder, ToyEncoder())
    )
    assert all(torch.equal(state[name], fresh[name]) for name in fresh)
    assert torch.equal(method.updates["vision"], learned(tasks[:1]).updates["vision"])
    assert method.head.of_tower == {"vision": [0, 1], "text": [2, 3]}


def test_a_resumed_task_keeps_the_subspace_that_it_began_with():
    """Another machine may find singular vectors of other signs."""
    data = task(0, [0, 1])

    class Kept(NoCheckpoints):
        def begin(self, loop):
            return ({str(i): -b for i, b in designed.items()}, {}) if loop == "subspace" else None

    method = InfLora(ToyEncoder(), make_options("inflora", QUICK))
    designed = method._design(data, None)
    method.checkpoints = Kept()
    method.learn(data, classes(2))
    assert all(torch.equal(method.factors[i][1], -b) for i, b in designed.items())


def test_the_classifier_reads_the_query_too_where_it_is_asked_to():
    queries = {}
    for features in ("z", "zq"):
        data = task(0, [0, 1], plain=True)
        data.tokens.query = randn(16, 48)
        method = learned([data], features=features)
        other = Tokens(data.tokens.tokens, randn(16, 48, seed=3))
        queries[features] = [method.scores(t, "image", classes(2), given=False) for t in (data.tokens, other)]
    assert torch.equal(*queries["z"]) and not torch.equal(*queries["zq"])
