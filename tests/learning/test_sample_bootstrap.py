"""Intervals over seeds and test samples, against closed forms and against simulated truths."""

import numpy as np
import pytest

from benchmarks.interval_coverage import Design, measure, simulate
from mmcl_fast.errors import RunError
from mmcl_fast.learning.sample_bootstrap import SampleInterval, SeedSamples, holm, sample_intervals
from mmcl_fast.learning.statistics import interval


def answers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return 100.0 * (rng.random(shape) < 0.7)


def singles(n: int, tasks: int, rng: np.random.Generator | None = None) -> SeedSamples:
    """Return n samples that are groups of their own, in tasks of equal size; ``rng`` shuffles them into the tasks."""
    order = np.arange(n) if rng is None else rng.permutation(n)
    return SeedSamples([str(i) for i in range(n)], order * tasks // n)


def width(found: SampleInterval) -> float:
    return found.high - found.low


def test_samples_of_one_seed_have_the_variance_of_a_stratified_mean():
    rng, tasks = np.random.default_rng(0), 5
    seed, values = singles(60, tasks), answers(rng, 3, 60)
    found = sample_intervals([seed], [values], draws=20_000)
    for row, got in zip(values, found):
        by_task = row.reshape(tasks, -1)
        error = (by_task.var(1, ddof=1) / by_task.shape[1]).sum() ** 0.5 / tasks
        assert got.mean == pytest.approx(row.mean()) and (got.n, got.samples, got.groups) == (1, 60, 60)
        assert got.high - got.mean == pytest.approx(2.004 * error, rel=0.03)  # t of 55 degrees of freedom
        assert got.sd is None and got.seed_share == 0


def test_seeds_without_differences_between_samples_have_students_interval():
    seed, means = singles(20, 4), [70.0, 72.0, 71.0, 69.0, 73.0]
    found = sample_intervals([seed] * 5, [np.full((1, 20), m) for m in means], draws=50)[0]
    expected = interval(means)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.sd == pytest.approx(expected.sd) and found.seed_share == pytest.approx(1)


def test_more_seeds_on_the_same_samples_say_no_more_about_the_samples():
    seed, values = singles(80, 4), answers(np.random.default_rng(1), 1, 80)
    one, many = (sample_intervals([seed] * n, [values] * n, draws=2000)[0] for n in (1, 9))
    assert width(many) == pytest.approx(width(one)) and many.mean == pytest.approx(one.mean)


def test_copies_of_a_sample_count_once_where_they_share_a_group():
    values = answers(np.random.default_rng(2), 1, 40)
    tasks = np.repeat(np.arange(40) * 4 // 40, 3)
    grouped = SeedSamples([str(i) for i in np.repeat(np.arange(40), 3)], tasks)
    apart = SeedSamples([str(i) for i in range(120)], tasks)
    alone = sample_intervals([singles(40, 4)], [values])[0]
    together = sample_intervals([grouped], [np.repeat(values, 3, 1)])[0]
    separate = sample_intervals([apart], [np.repeat(values, 3, 1)])[0]
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))
    assert (together.samples, together.groups) == (120, 40)
    assert width(separate) < 0.65 * width(together)


def test_a_group_that_is_a_whole_task_is_taken_apart():
    rng = np.random.default_rng(3)
    values, tasks = answers(rng, 1, 24), np.arange(24) // 12
    whole = SeedSamples(["a"] * 12 + [f"b{i}" for i in range(12)], tasks)
    found, alone = (
        sample_intervals([s], [values])[0] for s in (whole, SeedSamples(list("abcdefghijklmnopqrstuvwx"), tasks))
    )
    assert (found.low, found.high) == (alone.low, alone.high) and found.groups == 24


def test_a_difference_is_paired_by_sample():
    rng = np.random.default_rng(4)
    seeds = [singles(100, 5, rng) for _ in range(4)]
    a = answers(rng, 1, 100)
    b = np.where(rng.random((1, 100)) < 0.05, 0.0, a)  # b loses some of a's right answers
    both = sample_intervals(seeds, [np.concatenate([a, b, a - b])] * 4)
    assert both[2].mean == pytest.approx(both[0].mean - both[1].mean)
    assert width(both[2]) < 0.6 * width(both[0])
    nothing = sample_intervals(seeds, [a - a] * 4)[0]
    assert (nothing.mean, nothing.low, nothing.high, nothing.p) == (0, 0, 0, 1)


def test_p_is_below_a_level_where_the_interval_of_that_level_leaves_out_zero():
    rng = np.random.default_rng(5)
    seeds = [singles(60, 3, rng) for _ in range(4)]
    values = [100.0 * rng.integers(-1, 2, (20, 60)) + np.linspace(0, 30, 20)[:, None] for _ in seeds]
    for confidence in (0.9, 0.95, 0.999):
        found = sample_intervals(seeds, values, confidence=confidence, draws=500)
        assert [f.p < 1 - confidence for f in found] == [f.low > 0 for f in found]
    assert len({f.p < 0.05 for f in found}) == 2


def test_one_sided_answers_get_no_p_of_zero():
    found = sample_intervals([singles(6, 1)], [np.full((1, 6), 100.0)], draws=50)[0]
    assert found.p == 2 / 2**6 and (found.low, found.high) == pytest.approx((100, 100))


def test_neither_the_order_of_samples_nor_the_names_of_tasks_matter():
    rng = np.random.default_rng(6)
    seeds, values = [singles(30, 3, rng) for _ in range(3)], [answers(rng, 2, 30) for _ in range(3)]
    turned = [SeedSamples(s.groups[::-1], 7 - s.tasks[::-1]) for s in seeds]
    a, b = sample_intervals(seeds, values), sample_intervals(turned, [v[:, ::-1] for v in values])
    for x, y in zip(a, b):  # the draws are others
        assert x.mean == pytest.approx(y.mean) and width(x) == pytest.approx(width(y), rel=0.05)
    assert a == sample_intervals(seeds, values) != sample_intervals(seeds, values, seed=1)


@pytest.mark.parametrize(
    ("design", "narrower"),
    [
        (Design(5, 60, 4, seed_effect=0.05, sample_effect=1.0, noise=0.3), "level, seeds alone"),
        (Design(3, 90, 3, group=3, seed_effect=0.3, group_effect=0.3, noise=0.5), "level, percentile"),
    ],
)
def test_it_covers_the_truth_as_often_as_it_says_and_others_do_not(design, narrower):
    found = measure(design, repeats=150, draws=150, seed=1)
    assert 0.9 < found["level"] < 1 and 0.9 < found["difference"] < 1 and found["p below 0.05"] < 0.1
    assert found[narrower] < 0.85


def test_the_simulated_truth_is_the_mean_of_many():
    design = Design(seeds=60, samples=4000, tasks=4, group=2, seed_effect=0.3, sample_effect=0.8, group_effect=0.5)
    right, samples, truth = simulate(design, np.random.default_rng(0))
    assert right.shape == (60, 2, 4000) and len(samples) == 60 and len(set(samples[0].groups)) == 2000
    assert right.mean() == pytest.approx(truth, abs=2)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, None, 0.02]) == [0.5, None, 0.04]
    assert holm([0.9, 0.8, 0.7]) == [1.0, 1.0, 1.0] and holm([]) == [] and holm([None]) == [None]


@pytest.mark.parametrize(
    ("seeds", "values", "message"),
    [
        ([], [], "at least one seed"),
        ([SeedSamples([], np.zeros(0))], [np.zeros((1, 0))], "samples for each seed"),
        ([singles(4, 2)], [np.zeros((1, 5))], "values"),
    ],
)
def test_bad_input_is_named(seeds, values, message):
    with pytest.raises(RunError, match=message):
        sample_intervals(seeds, values)
