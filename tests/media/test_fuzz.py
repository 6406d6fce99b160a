"""Workers give only items and clean errors for mutated files. ``make fuzz`` tries 20,000."""

from __future__ import annotations

import pytest

from mmcl_fast.errors import MediaError
from mmcl_fast.media.engines import isolation
from mmcl_fast.media.engines.isolation import Outcome
from tests.media.corrupt import Case
from tests.media.fuzz import Found, fuzz, judge, mutated

if isolation.unavailable():
    pytest.skip(f"isolation: {isolation.unavailable()}", allow_module_level=True)


def test_a_sample_comes_to_items_and_clean_errors() -> None:
    found = fuzz(list(mutated(500, seed=100)), workers=2)
    assert not found.faults and not found.killers
    assert found.items + found.errors == 3 * 500 and min(found.items, found.errors) > 300


def test_what_is_not_clean_is_a_fault() -> None:
    case = Case("0-a.png", "image", b"12345")
    clean, item = Outcome("image", MediaError("<5 bytes>: broken: replace it")), Outcome("text", None, "a word")
    passed = Outcome("image")
    for tried, faults in (
        ([clean, clean, clean], 0),
        ([item, clean, clean], 0),
        ([item, passed, clean], 1),  # a check that accepts a file that does not decode
        ([Outcome("image", MediaError("<5 bytes>: two\x07 words: replace it")), clean, clean], 1),
        ([Outcome("image", MediaError("other: replace it")), clean, clean], 1),
        ([Outcome("image", MediaError("<5 bytes>: broken")), clean, clean], 1),
        ([Outcome("smell", None, "a word"), clean, clean], 1),
        ([Outcome("image"), clean, clean], 1),  # no planes
        (RuntimeError("a fault of ours"), 1),
    ):
        found = Found()
        judge(case, tried, found, None)
        assert len(found.faults) == faults, (tried, found)
