import math

import numpy as np
import pytest

from mmcl_fast.errors import RunError
from mmcl_fast.learning import metrics
from mmcl_fast.learning.statistics import bootstrap, interval, paired

# Two-sided 90, 95 and 99 per cent points of Student's t, as every table prints them.
TABLE = {
    1: (6.3138, 12.7062, 63.6567),
    2: (2.920, 4.303, 9.925),
    3: (2.353, 3.182, 5.841),
    4: (2.132, 2.776, 4.604),
    5: (2.015, 2.571, 4.032),
    9: (1.833, 2.262, 3.250),
    10: (1.812, 2.228, 3.169),
    30: (1.697, 2.042, 2.750),
    120: (1.658, 1.980, 2.617),
}


@pytest.mark.parametrize("df", TABLE)
def test_intervals_have_the_quantiles_of_the_printed_tables(df):
    values = np.arange(df + 1.0)
    for confidence, t in zip((0.9, 0.95, 0.99), TABLE[df]):
        found = interval(values, confidence)
        assert (found.high - found.mean) * math.sqrt(found.n) / found.sd == pytest.approx(t, abs=6e-4)


A = [70.1, 72.4, 71.0, 69.2, 73.3, 70.9]
B = [69.4, 71.8, 71.5, 68.0, 71.9, 70.2]
# (n, confidence): low and high of A, t_p, permutation_p of A and B. Written with the closed form of Student's t
# (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4) that this package used before scipy.
STORED = {
    (2, 0.9): (63.989185758121096, 78.5108142418789, 0.048874503944385195, 0.5),
    (2, 0.95): (56.63786455339752, 85.86213544660248, 0.048874503944385195, 0.5),
    (3, 0.9): (69.21272328549, 73.12061004784334, 0.5596144939494563, 0.5),
    (3, 0.95): (68.28749497507934, 74.045838358254, 0.5596144939494563, 0.5),
    (4, 0.9): (69.06914197488595, 72.28085802511404, 0.2571593992455147, 0.25),
    (4, 0.95): (68.50340301533524, 72.84659698466476, 0.2571593992455147, 0.25),
    (5, 0.9): (69.61180991383019, 72.78819008616982, 0.10895916762461477, 0.125),
    (5, 0.95): (69.13159498180079, 73.26840501819922, 0.10895916762461477, 0.125),
    (6, 0.9): (69.92015999812514, 72.37984000187484, 0.0525240114768154, 0.0625),
    (6, 0.95): (69.58110249292547, 72.71889750707452, 0.0525240114768154, 0.0625),
}


@pytest.mark.parametrize(("n", "confidence"), STORED)
def test_values_agree_with_the_closed_form(n, confidence):
    low, high, t_p, permutation_p = STORED[n, confidence]
    found, difference = interval(A[:n], confidence), paired(A[:n], B[:n], confidence)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    assert difference.t_p == pytest.approx(t_p, abs=1e-9)
    assert difference.permutation_p == permutation_p


def test_the_sign_flip_test_counts_ties_that_differ_by_rounding():
    differences = [-0.7, 0.7, 0.9, -0.1, -1.5]  # 28 of the 32 sums are at least 0.7 from 0
    a = [70.0 + d for d in differences]
    assert paired(a, [70.0] * 5).permutation_p == 28 / 32


def test_an_interval_by_hand():
    found = interval([70.0, 72.0, 71.0, 69.0, 73.0])  # sd sqrt(10 / 4), t(4) 2.776
    assert (found.n, found.mean) == (5, 71.0) and found.sd == pytest.approx(1.5811, abs=1e-4)
    assert (found.low, found.high) == pytest.approx((71 - 1.9632, 71 + 1.9632), abs=1e-3)
    assert interval([1.0, 2.0], 0.5).high == pytest.approx(1.5 + 0.5)  # t(1) = 1 at one half
    one = interval([7.0])
    assert (one.n, one.mean, one.sd, one.low, one.high) == (1, 7.0, None, None, None) and bootstrap([7.0]) == one


def test_the_interval_covers_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3.0, 2.0, (1000, 4))
    covered = np.mean([i.low <= 3 <= i.high for i in map(interval, draws)])
    assert 0.93 < covered < 0.97


def test_the_bootstrap_of_few_values_is_exact_and_of_many_near_the_normal_one():
    found = bootstrap([0.0, 1.0], 0.5)  # means 0, 1/2, 1/2, 1
    assert (found.low, found.high) == pytest.approx((0.375, 0.625))  # quantiles between the middle ones and the outer
    assert bootstrap([5.0] * 4).low == 5.0 == bootstrap([5.0] * 4).high
    many = np.random.default_rng(1).normal(0, 1, 60)
    half = 1.96 * many.std() / 60**0.5
    found = bootstrap(many)
    assert (found.low, found.high) == pytest.approx((many.mean() - half, many.mean() + half), abs=0.03)
    assert found == bootstrap(many) and found != bootstrap(many, seed=1)
    skewed = bootstrap([0.0, 0.0, 0.0, 0.0, 10.0])
    assert skewed.low == 0 and skewed.high <= 10


def test_paired_by_hand():
    found = paired([5.0, 6.0, 7.0, 8.0], [4.0, 4.0, 4.0, 4.0])  # differences 1 2 3 4: t = 2.5 / (1.29099 / 2) = 3.873
    assert found.difference == interval([1.0, 2.0, 3.0, 4.0]) and found.difference.mean == 2.5
    assert found.t_p == pytest.approx(0.0305, abs=1e-4)
    assert found.permutation_p == 2 / 16  # nothing but all signs alike is as far from 0
    mixed = paired([3.0, 1.0, 0.0], [0.0, 0.0, 2.0])  # 3 1 -2: the eight sums are +-6, +-4, +-2, 0, 0
    assert mixed.permutation_p == 6 / 8
    swapped = paired([4.0, 4.0, 4.0, 4.0], [5.0, 6.0, 7.0, 8.0])
    assert swapped.difference.mean == -2.5 and (swapped.t_p, swapped.permutation_p) == (found.t_p, found.permutation_p)


def test_equal_differences_have_no_t_test_but_a_permutation_test():
    found = paired([0.1, 0.2, 0.3], [0.0, 0.1, 0.2])
    assert found.t_p is None and found.permutation_p == 2 / 8
    assert paired([1.0, 2.0], [1.0, 2.0]).permutation_p == 1.0
    assert paired([1.0], [0.0]).t_p is None and paired([1.0], [0.0]).permutation_p == 1.0


def test_p_values_of_equal_methods_are_spread_evenly_and_many_seeds_are_drawn():
    draws = np.random.default_rng(0).normal(size=(400, 2, 8))
    found = [paired(a, b) for a, b in draws]
    assert 0.03 < np.mean([p.t_p < 0.05 for p in found]) < 0.08
    assert 0.02 < np.mean([p.permutation_p < 0.05 for p in found]) < 0.08
    a, b = np.random.default_rng(2).normal(size=(2, 20))
    many = paired(a + 0.3, b)
    assert many.permutation_p == pytest.approx(many.t_p, abs=0.03) and many == paired(a + 0.3, b)
    assert paired(a + 50, b).permutation_p > 0  # no p of 0 from a sample of swaps


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interval([]), "one for each seed"),
        (lambda: interval([1.0, None]), "value 1 of 2 is None"),
        (lambda: interval([1.0, float("nan")]), "is nan: give a finite"),
        (lambda: interval([1.0], 95), "confidence = 95"),
        (lambda: paired([1.0], [1.0, 2.0]), "1 and 2 values"),
        (lambda: bootstrap([1.0, 2.0], 0), "confidence = 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(RunError, match=message):
        call()


class Plugins:
    """Avalanche's StreamForgetting, StreamBWT, StreamForwardTransfer and Top1_Acc_Stream, computed event by event from
    right and wrong answers, as in avalanche/evaluation/metrics/{forgetting_bwt,forward_transfer,accuracy}.py of
    ContinualAI/avalanche.

    An experience's first value is its evaluation right after training it. Its last value is the present evaluation,
    except for the experience just trained.
    """

    def __init__(self):
        self.trained, self.first, self.before, self.at_start = None, {}, {}, {}

    def train(self, experience):
        self.trained = experience

    def evaluate(self, answers):
        """answers: for each experience, bools of its samples."""
        last = {}
        for k, right in enumerate(answers):
            accuracy = sum(right) / len(right)
            if self.trained is None:
                self.at_start[k] = accuracy
            elif self.trained == k:
                self.first[k] = accuracy
            else:
                last[k] = accuracy
            if self.trained is not None and self.trained == k - 1:
                self.before[k] = accuracy
        drops = [self.first[k] - last[k] for k in last if k in self.first]
        gains = [self.before[k] - self.at_start[k] for k in self.before]
        everything = [r for right in answers for r in right]
        forgetting = sum(drops) / len(drops) if drops else 0.0
        return {
            "forgetting": forgetting,
            "bwt": -forgetting,
            "forward": sum(gains) / len(gains) if gains else 0.0,
            "accuracy": sum(everything) / len(everything),
        }


@pytest.mark.parametrize("seed", range(4))
def test_metrics_agree_with_avalanches_where_the_definitions_do(seed):
    rng = np.random.default_rng(seed)
    counts, tasks = [30, 7, 20, 11, 5], 5
    plugins, R = Plugins(), []
    for t in range(tasks + 1):
        if t:
            plugins.train(t - 1)
        answers = [rng.random(n) < rng.uniform(0.2, 0.9) for n in counts]
        R.append([100 * float(a.mean()) for a in answers])
        shown = plugins.evaluate(answers)
    assert metrics.pooled(R, counts) == pytest.approx(100 * shown["accuracy"])
    assert metrics.bwt(R) == pytest.approx(100 * shown["bwt"])
    assert metrics.fwt(R) == pytest.approx(100 * shown["forward"])
    # Its forgetting counts from the accuracy right after learning, ours from the best before the last task.
    assert 100 * shown["forgetting"] == pytest.approx(-metrics.bwt(R))
    assert metrics.forgetting(R) > 100 * shown["forgetting"]
    falling = [R[0]] + [[90.0 - 10 * i - 2 * t for i in range(tasks)] for t in range(tasks)]
    assert metrics.forgetting(falling) == pytest.approx(-metrics.bwt(falling)) == 2 * (4 + 3 + 2 + 1) / 4
