import pytest

from mmcl_fast.learning import metrics

# Four tasks; row 0 is zero-shot.
R = [
    [10.0, 20.0, 30.0, 40.0],
    [90.0, 25.0, 35.0, 45.0],
    [70.0, 80.0, 50.0, 30.0],
    [60.0, 75.0, 85.0, 20.0],
    [50.0, 60.0, 65.0, 95.0],
]


def test_by_hand():
    assert metrics.last(R) == pytest.approx((50 + 60 + 65 + 95) / 4)
    assert metrics.avg(R) == pytest.approx((90 + 75 + 220 / 3 + 67.5) / 4)
    assert metrics.forgetting(R) == pytest.approx(((90 - 50) + (80 - 60) + (85 - 65)) / 3)
    assert metrics.bwt(R) == pytest.approx(-((90 - 50) + (80 - 60) + (85 - 65)) / 3)
    assert metrics.fwt(R) == pytest.approx(((25 - 20) + (50 - 30) + (20 - 40)) / 3)
    assert metrics.pooled(R, [10, 10, 10, 70]) == pytest.approx(5 + 6 + 6.5 + 66.5)


def test_forgetting_takes_the_best_before_the_end_and_may_be_negative():
    grew = [[0.0, 0.0], [50.0, 0.0], [70.0, 60.0]]
    assert metrics.forgetting(grew) == pytest.approx(-20.0)
    peak = [[0.0] * 3, [50.0, 0, 0], [80.0, 60.0, 0], [70.0, 50.0, 90.0]]
    assert metrics.forgetting(peak) == pytest.approx(((80 - 70) + (60 - 50)) / 2)


def test_missing_entries_give_none_where_they_are_needed_only():
    only_last = [[None] * 2, [None] * 2, [40.0, 60.0]]
    assert metrics.last(only_last) == 50.0
    assert metrics.avg(only_last) is None and metrics.fwt(only_last) is None and metrics.bwt(only_last) is None
    one = [[5.0], [80.0]]
    assert metrics.forgetting(one) is None and metrics.last(one) == 80.0


def test_per_modality_is_the_same_formula_over_own_tasks_with_the_whole_matrix():
    out = metrics.summarize(R, [10, 10, 10, 30], ["image", "audio", "image", "audio"])
    image, audio = out["per_modality"]["image"], out["per_modality"]["audio"]
    assert image["last"] == pytest.approx((50 + 65) / 2)
    assert image["forgetting"] == pytest.approx(((90 - 50) + (85 - 65)) / 2)
    assert image["bwt"] == pytest.approx(-((90 - 50) + (85 - 65)) / 2)
    assert image["fwt"] == pytest.approx(50 - 30)
    assert image["avg"] == pytest.approx((90 + 70 + (60 + 85) / 2 + (50 + 65) / 2) / 4)
    assert audio["forgetting"] == pytest.approx(80 - 60)  # the last task of all cannot be forgotten yet
    assert audio["pooled"] == pytest.approx((60 * 10 + 95 * 30) / 40)
    alone = metrics.summarize([[0.0, 0.0], [90.0, 0.0], [10.0, 80.0]], [5, 5], ["image", "audio"])
    assert alone["per_modality"]["image"]["forgetting"] == 80.0
