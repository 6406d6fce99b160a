"""Bodies to items, without a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from mmcl_fast.serve import Limits, body
from mmcl_fast.serve.body import CURL_TYPE, Item, RequestRefused, find_items

CURL = CURL_TYPE.decode()


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The texts that were parsed as JSON so far."""
    texts: list[Any] = []
    real: Callable[..., Any] = json.loads
    monkeypatch.setattr(body.json, "loads", lambda text: texts.append(text) or real(text))
    return texts


@pytest.mark.parametrize("content_type", [CURL, "application/json"])
def test_json_is_parsed_once(parsed: list[Any], content_type: str) -> None:
    items = find_items(b' {"text": ["a bird", "a stone"]}', content_type, None, Limits())
    assert items == [Item("text:1", b"a bird", "text"), Item("text:2", b"a stone", "text")]
    assert len(parsed) == 1


@pytest.mark.parametrize("text", [b"{ a brace, no JSON", b"[1]", b"{" * 100_000])
def test_other_bodies_of_curl_are_files(parsed: list[Any], text: bytes) -> None:
    assert find_items(text, CURL, None, Limits()) == [Item("body", text)]
    assert len(parsed) == text.startswith(b"{")


def test_an_object_of_curl_that_is_no_request_is_refused() -> None:
    with pytest.raises(RequestRefused, match="key 'text'") as caught:
        find_items(b'{"words": "a bird"}', CURL, None, Limits())
    assert caught.value.status == 400
