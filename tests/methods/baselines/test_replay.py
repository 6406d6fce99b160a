import pytest
import torch
import torch.nn.functional as F

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods import Classes, make_options
from mmcl_fast.methods.baselines.replay import Replay, herd, quotas, reservoir
from mmcl_fast.methods.shared.prompts import concat_tokens
from tests.methods import end_to_end
from tests.methods.comm.test_method import task
from tests.toy import ToyEncoder

QUICK = {"batch_size": 8, "epochs": 4, "budget": 40}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- choosing ---------------------------------------------------------------------------------------------------


def test_the_reservoir_is_algorithm_r():
    u = torch.rand(4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    slots = [0, 1, 2]  # two were there of two seen, the first new one takes the free slot
    for i, position in ((1, 3), (2, 4), (3, 5)):
        slot = int(u[i] * (2 + i + 1))
        if slot < 3:
            slots[slot] = position
    assert reservoir(3, 2, 4, torch.Generator().manual_seed(5)).tolist() == sorted(slots)
    assert reservoir(9, 2, 4, torch.Generator()).tolist() == list(range(6))


def test_every_sample_has_the_same_chance_over_all_tasks():
    chances = torch.zeros(60)
    for trial in range(2000):
        held, seen = torch.empty(0, dtype=torch.int64), 0
        for count in (7, 33, 20):
            generator = torch.Generator().manual_seed(trial * 3 + count)
            samples = torch.cat([held, torch.arange(seen, seen + count)])
            held = samples[reservoir(12, seen, count, generator)]
            seen += count
        assert len(held) == 12 == len(held.unique())
        chances[held] += 1 / 2000
    torch.testing.assert_close(chances, torch.full((60,), 0.2), atol=0.045, rtol=0)  # five standard errors
    for part in (chances[:7], chances[7:40], chances[40:]):
        assert float(part.mean()) == pytest.approx(0.2, abs=0.02)


def test_herding_by_hand():
    x = torch.tensor([[0.0], [4.0], [5.0], [10.0]])  # mean 4.75
    # 5; then the nearest to 2 * 4.75 - 5 = 4.5 is 4; to 3 * 4.75 - 9 = 5.25 it is 10, though 0 is nearer to the mean
    assert herd(x, 3).tolist() == [2, 1, 3]
    assert sorted(herd(x, 9).tolist()) == [0, 1, 2, 3]
    assert herd(x, 0).tolist() == []


def test_herding_follows_the_mean_better_than_chance():
    x = F.normalize(randn(60, 5), dim=1)
    order = herd(x, 10)
    assert len(order.unique()) == 10
    assert (x[order].mean(0) - x.mean(0)).norm() < (x[:10].mean(0) - x.mean(0)).norm() / 3


def test_shares_use_the_whole_budget_and_never_grow():
    for budget in (3, 10, 40):
        for classes in range(1, 15):
            now, then = quotas(budget, classes), quotas(budget, classes + 1)
            assert sum(now) == budget and max(now) - min(now) <= 1
            assert all(b <= a for a, b in zip(now, then))


def test_rows_of_unlike_lengths_are_padded_and_masked():
    short = Tokens(torch.ones(2, 3, 4), torch.empty(2, 0), torch.tensor([[True, True, False], [True, True, True]]))
    long = Tokens(torch.full((1, 5, 4), 2.0), torch.empty(1, 0))
    both = concat_tokens(short, long)
    assert both.tokens.shape == (3, 5, 4) and both.mask.sum(1).tolist() == [2, 3, 5]
    assert both.tokens[0, 3:].eq(0).all() and both.tokens[2].eq(2).all()
    assert concat_tokens(long, long).mask is None


# ---- the buffer -------------------------------------------------------------------------------------------------


def sequence(encoder, selection, budget, order=(("image", [0, 1]), ("depth", [2, 3]), ("image", [1, 4]))):
    """A method after tasks of 8 samples a class; class 1 comes twice."""
    method = Replay(encoder, make_options("replay", {**QUICK, "epochs": 1, "selection": selection, "budget": budget}))
    known = 0
    for i, (modality, ids) in enumerate(order):
        known = max(known, *(c + 1 for c in ids))
        keys = [("any", str(c)) for c in range(known)]
        classes = Classes(keys, [str(k) for k in keys], encoder.text([str(k) for k in keys]))
        data = task(encoder, i, modality, ids, i)
        yield method, data
        method.learn(data, classes)
    yield method, None


@pytest.mark.parametrize("selection", ["reservoir", "herding"])
@pytest.mark.parametrize("budget", [2, 9, 25, 100])
def test_the_budget_is_kept_and_exemplars_are_samples_of_their_class(selection, budget):
    encoder = ToyEncoder()
    came = []
    for method, data in sequence(encoder, selection, budget):
        rows = [(m, t, int(y)) for m, x in method.exemplars.items() for t, y in zip(x.tokens, method.labels[m])]
        assert len(rows) == min(budget, 16 * (len(came)))
        for modality, tokens, label in rows:
            assert tokens.dtype == torch.bfloat16
            assert any(m == modality and ((x == tokens).all((1, 2)) & (y == label)).any() for m, x, y in came)
        if data is not None:
            came.append((data.modality, data.tokens.tokens.bfloat16(), data.labels))
    if selection == "herding":
        counts = torch.bincount(torch.cat(list(method.labels.values())), minlength=5).tolist()
        assert counts == [min(q, n) for q, n in zip(quotas(budget, 5), (8, 16, 8, 8, 8))]


def test_a_class_gives_up_its_last_exemplars_first():
    encoder = ToyEncoder()
    exemplars = [
        method.exemplars["image"].tokens[method.labels["image"] == 0].clone()
        for method, _ in sequence(encoder, "herding", 12)
        if "image" in method.exemplars
    ]
    assert [len(k) for k in exemplars] == [6, 3, 3]
    assert torch.equal(exemplars[0][:3], exemplars[1]) and torch.equal(exemplars[1], exemplars[2])


def test_exemplars_lie_in_the_order_of_herding_on_unit_z_under_the_learned_prompt():
    encoder = ToyEncoder()
    steps = sequence(encoder, "herding", 12)
    _, data = next(steps)
    method, _ = next(steps)
    z = F.normalize(encoder.head(data.tokens, method.prompts.stored["vision"], "image"), dim=1)
    for c in (0, 1):
        order = herd(z[data.labels == c], 6)
        assert order.tolist() != list(range(6))
        exemplars = method.exemplars["image"].tokens[method.labels["image"] == c]
        assert torch.equal(exemplars, data.tokens.tokens[data.labels == c][order].bfloat16())


def test_all_of_the_buffer_is_drawn_alike():
    *_, (method, _) = sequence(ToyEncoder(), "reservoir", 20)
    sizes = {m: len(labels) for m, labels in method.labels.items()}
    assert len(sizes) == 2 and sum(sizes.values()) == 20
    counts = {m: torch.zeros(n) for m, n in sizes.items()}
    for modality, rows in method._draw(40_000, torch.Generator().manual_seed(0)):
        counts[modality] += torch.bincount(rows, minlength=sizes[modality])
    torch.testing.assert_close(torch.cat(list(counts.values())) / 40_000, torch.full((20,), 0.05), rtol=0, atol=0.006)


def test_a_step_learns_from_old_and_new_samples_of_all_classes(monkeypatch):
    encoder = ToyEncoder()
    seen = []
    real = F.cross_entropy
    for method, data in sequence(encoder, "reservoir", 40):
        if data is not None and data.index == 1:
            monkeypatch.setattr(
                "mmcl_fast.methods.baselines.replay.F.cross_entropy",
                lambda logits, labels: seen.append((logits.shape, labels)) or real(logits, labels),
            )
            before = method.classifier.weight.clone()
        if data is not None and data.index == 2:
            break
    assert {s for s, _ in seen} == {(16, 4)}
    for _, labels in seen:
        assert set(labels[:8].tolist()) <= {2, 3} and set(labels[8:].tolist()) <= {0, 1}
    assert not torch.equal(method.classifier.weight[:2], before)


@pytest.mark.parametrize("selection", ["reservoir", "herding"])
def test_replay_forgets_less_than_no_replay(tmp_path, selection):
    learner, tasks = end_to_end.learned(tmp_path, "replay", {**QUICK, "selection": selection})
    alone, _ = end_to_end.learned(tmp_path, "ewc", {"batch_size": 8, "epochs": 4, "strength": 0.0})
    assert learner.evaluate(tasks).mean("agnostic") > alone.evaluate(tasks).mean("agnostic") + 5
