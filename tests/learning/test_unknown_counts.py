"""Counts of samples flagged as unknown, and the AUROC of their scores."""

import numpy as np
import pytest

from mmcl_fast.learning.unknown_counts import PERCENTS, auroc, flagged_by_percent, is_flagged

NONE = float("nan")


def test_a_sample_is_flagged_from_one_minus_the_rate_on_and_never_without_a_score():
    scores = np.array([0.9, 0.95, 0.94999, 1.0, NONE, 0.0])
    assert is_flagged(scores, 0.05).tolist() == [False, True, False, True, False, False]
    counts = flagged_by_percent(scores)
    assert len(counts) == len(PERCENTS) == 100
    assert [counts[0], counts[4], counts[9], counts[99]] == [1, 2, 4, 5]


def test_every_rate_in_whole_per_cent_flags_the_score_it_stands_for():
    """A score of k / 1000 is at the limit of a rate of whole per cent; rounding must not move it below."""
    for percent in PERCENTS:
        assert is_flagged(np.array([(1000 - 10 * percent) / 1000]), percent / 100).all()
        assert not is_flagged(np.array([(999 - 10 * percent) / 1000]), percent / 100).any()


def test_auroc_is_the_chance_that_an_unknown_sample_scores_higher():
    known, others = np.array([0.1, 0.5, NONE, 0.5, 0.9]), np.array([0.5, 1.0, NONE])
    pairs = [(a, b) for a in (0.1, 0.5, 0.5, 0.9) for b in (0.5, 1.0)]
    expected = sum(1.0 if b > a else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
    assert auroc(known, others) == pytest.approx(expected)
    assert auroc(known, known) == 0.5 and auroc(np.zeros(3), np.ones(2)) == 1.0
    assert auroc(known, np.array([NONE])) is None and auroc(np.empty(0), others) is None
