"""The share of GCV's penalty that held-out samples choose."""

import pytest
import torch
import torch.nn.functional as F

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods import Classes, TaskData, make_options
from mmcl_fast.methods.comm import memory as memories
from mmcl_fast.methods.comm import penalty_share as module
from mmcl_fast.methods.comm.closed_form import DEFAULT_SHARE
from mmcl_fast.methods.comm.memory import FeatureMemory
from mmcl_fast.methods.comm.method import Comm
from mmcl_fast.methods.comm.moments import Moments
from mmcl_fast.methods.comm.penalty_share import SHARES, TEMPERATURES, PenaltyShare, held_out_rows
from tests.methods.comm.test_closed_form import WIDE, direct, memory_of, samples
from tests.methods.comm.test_method import task
from tests.toy import ToyEncoder


def task_of(u, labels, views=1):
    tokens = Tokens(u.unsqueeze(1), u)
    return TaskData(0, "image", tokens, labels, labels.unique().tolist(), views)


def empty():
    return FeatureMemory(WIDE, WIDE, 0.0)


def test_the_last_quarter_of_each_class_is_held_out_in_all_views():
    labels = torch.tensor([4] * 9 + [7] * 3 + [5] * 4)
    held = held_out_rows(task_of(torch.zeros(32, WIDE), labels.repeat(2), views=2))
    assert held.nonzero().flatten().tolist() == [7, 8, 15, 16 + 7, 16 + 8, 16 + 15]


def test_likelihoods_are_those_of_discriminants_without_the_held_out_samples(monkeypatch):
    monkeypatch.setattr(memories, "POOLED_SAMPLES_PER_ROW", 1)  # exact covariances
    u, labels = samples(3, noise=1.5)
    data, share = task_of(u, labels), PenaltyShare()
    share.observe(empty(), data, u, ["image"], WIDE)
    held = held_out_rows(data)
    penalty = Moments(memory_of((u[~held], labels[~held])), ["image"], WIDE).gcv_penalty()
    target = labels[held]
    wanted = [torch.ones(len(target)).double()]
    for each in SHARES:
        scores = discriminants_at(u[~held], labels[~held], each * penalty, u[held])
        own = scores.gather(1, target.unsqueeze(1))
        best = scores.clone().scatter(1, target.unsqueeze(1), float("-inf")).amax(1, keepdim=True)
        scores = scores * 2 / (own - best).abs().mean()
        tried = [-F.cross_entropy(scores / t, target, reduction="none") for t in TEMPERATURES]
        wanted.append(max(tried, key=lambda each: float(each.sum())))
    wanted = torch.stack(wanted)
    torch.testing.assert_close(share.sums, wanted @ wanted.T, rtol=5e-3, atol=1e-3)


def discriminants_at(u, labels, penalty, at):
    """Scores of other samples. The scores of ``direct`` are affine in u, so its values at u determine them."""
    rows = F.pad(u.double(), (0, 1), value=1.0)
    solution = torch.linalg.lstsq(rows, direct(u, labels, penalty)).solution
    return F.pad(at.double(), (0, 1), value=1.0) @ solution


def test_the_largest_share_within_a_standard_error_of_the_best_is_chosen():
    share = PenaltyShare()
    assert share.value == DEFAULT_SHARE
    g = torch.Generator().manual_seed(0)
    common = torch.randn(400, generator=g).double()
    # Behind the best by 60, 30, 15, 0 and 10; the sum of differences has a standard error of about 20.
    behind = torch.tensor([60.0, 30.0, 15.0, 0.0, 10.0]).double() / 400
    noise = torch.randn(400, len(SHARES), generator=g).double()
    rows = common.unsqueeze(1) - behind + (noise - noise.mean(0)) * 20 / 800**0.5
    rows = F.pad(rows, (1, 0), value=1.0)
    share.sums += rows.T @ rows
    assert share.value == SHARES[2]


@pytest.mark.parametrize("each", [1, 3])
def test_classes_of_fewer_than_four_samples_say_nothing(each):
    u, labels = samples(4, each=each)
    share = PenaltyShare()
    share.observe(empty(), task_of(u, labels), u, ["image"], WIDE)
    assert not share.sums.any()


def test_one_class_says_nothing():
    u, labels = samples(1)
    share = PenaltyShare()
    share.observe(empty(), task_of(u, labels), u, ["image"], WIDE)
    assert not share.sums.any()


def test_the_memory_stays_as_it_was_with_classes_that_come_again(monkeypatch):
    monkeypatch.setattr(memories, "BLOCK_CLASSES", 2)
    u, labels = samples(4)
    memory = memory_of((u, labels))
    before = {name: tensor.clone() for name, tensor in memory.state()[0].items()}
    values = memory.state()[1]
    more, again = samples(4, first=2)
    share = PenaltyShare()
    share.observe(memory, task_of(more, again), more, ["image"], WIDE)
    after = memory.state()
    assert after[1] == values and after[0].keys() == before.keys()
    assert all(torch.equal(after[0][name], before[name]) for name in before) and share.sums.any()


@pytest.mark.parametrize(
    ("options", "tried"),
    [({}, True), ({"penalty": 1.0}, False), ({"realignment": "off"}, False), ({"start": "zero"}, False)],
    ids=str,
)
def test_comm_tries_shares_where_cross_validation_chooses_the_penalty(options, tried):
    encoder = ToyEncoder()
    method = Comm(encoder, make_options("comm", {"prompts": False, **options}))
    classes = Classes([("image", "0"), ("image", "1")], ["0", "1"], encoder.text(["0", "1"]))
    method.learn(task(encoder, 0, "image", [0, 1], 0, per_class=9), classes)
    assert int(method.penalty_share.sums[0, 0]) == (2 * 2 if tried else 0)  # two held-out samples of each class


def test_the_views_of_a_sample_count_once():
    u, labels = samples(4)
    once, twice = PenaltyShare(), PenaltyShare()
    once.observe(empty(), task_of(u, labels), u, ["image"], WIDE)
    both = torch.cat([u, u])
    twice.observe(empty(), task_of(both, labels.repeat(2), views=2), both, ["image"], WIDE)
    assert float(once.sums[0, 0]) == float(twice.sums[0, 0]) == 40


def test_few_held_out_samples_choose_nothing():
    share = PenaltyShare()
    rows = F.pad(torch.arange(len(SHARES)).double().expand(module.LEAST_HELD_OUT - 1, -1), (1, 0), value=1.0)
    share.sums += rows.T @ rows
    assert share.value == DEFAULT_SHARE
    share.sums += rows[:1].T @ rows[:1]
    assert share.value == SHARES[-1]


def test_sums_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"penalty_share: shape \(9, 9\), not"):
        PenaltyShare().load(torch.zeros(9, 9))
