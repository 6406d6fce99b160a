from __future__ import annotations

import pytest

from mmcl_fast.learning.forgotten_classes import ForgottenClass, find_forgotten_classes

TASKS = [
    {"name": "image-0", "classes": ["cat", "dog"], "test_by_class": [10, 5]},
    {"name": "audio-0", "classes": ["bark"], "test_by_class": [8]},
    {"name": "image-1", "classes": ["car", "ship"], "test_by_class": [4, 4]},
]
WRONG: tuple[list, ...] = [[[["image", "car"], 4], [["audio", "bark"], 1]], []], [[[["image", "cat"], 2]]], [[], []]


def event(after: int, *right: list[int] | None, setting: str = "given", **more) -> dict:
    return {"event": "evaluation", "after": after, "setting": setting, "by_class": list(right), **more}


def run() -> list[dict]:
    return [
        event(0, [0, 0], [0], [0, 0]),
        {"event": "start", "seconds": {}},
        event(1, [8, 5], [3], None),
        event(2, [9, 5], [7], [0, 0]),
        event(2, [0, 0], [0], [0, 0], setting="agnostic"),
        event(3, [5, 5], [6], [1, 4], taken_for=list(WRONG)),
    ]


def test_by_hand() -> None:
    cat, bark = find_forgotten_classes(TASKS, run(), "given")
    assert cat == ForgottenClass(1, 0, 9, 2, 5, 10, [(("image", "car"), 4), (("audio", "bark"), 1)])
    assert bark == ForgottenClass(2, 0, 7, 2, 6, 8, [(("image", "cat"), 2)])  # the row before its task does not count
    assert (cat.forgetting, bark.forgetting) == (40.0, 12.5)


def test_what_was_not_recorded_is_none() -> None:
    assert find_forgotten_classes(TASKS, run(), "agnostic") is None
    assert find_forgotten_classes(TASKS, [e for e in run() if e.get("after") != 2], "given") is None
    assert find_forgotten_classes([{"name": "image-0", "classes": ["cat", "dog"]}, *TASKS[1:]], run(), "given") is None
    assert find_forgotten_classes(TASKS[:1], [event(1, [8, 5], taken_for=[[[], []]])], "given") == []


def test_rows_of_another_stream_are_no_run() -> None:
    with pytest.raises(IndexError):
        find_forgotten_classes(TASKS, [*run()[:-1], event(3, [5, 5], taken_for=list(WRONG))], "given")
