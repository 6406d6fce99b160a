"""docs/method.md names every option of COMM with its default, and no other."""

from __future__ import annotations

import dataclasses
import re

from mmcl_fast.methods.comm.method import CommOptions
from tests.docs.pages import DOCS


def test_every_switch_of_comm_is_on_the_methods_page_with_its_default() -> None:
    text = (DOCS / "method.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\| switch \| default \| choice \|\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.M)
    rows = [re.match(r"\| `(\w+)` \| `([^`]+)` \| \S", row) for table in tables for row in table.splitlines()]
    told = [(row[1], row[2]) for row in rows]
    assert len({name for name, _ in told}) == len(told), "a switch stands in two tables"
    assert dict(told) == {field.name: str(field.default) for field in dataclasses.fields(CommOptions)}
    for name in re.findall(r"`method\.options\.(\w+)", text):
        assert name in dict(told)
