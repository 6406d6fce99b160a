"""docs/method.md names every option of COMM once, in tables that are made from the options themselves."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from mmcl_fast.config.reference import TABLE, fill_tables
from mmcl_fast.errors import ConfigError
from mmcl_fast.methods.comm.options import CommOptions
from tests.docs.pages import DOCS

PAGE = (DOCS / "method.md").read_text(encoding="utf-8")


def test_the_tables_of_the_methods_page_are_those_of_the_options() -> None:
    assert fill_tables(PAGE) == PAGE, "run: python -m mmcl_fast.config.reference docs/method.md"
    assert fill_tables(PAGE.replace("| `8` |", "| `9` |")) == PAGE


def test_every_option_of_comm_is_on_the_methods_page_once() -> None:
    named = Counter(name for _, method, names, *_ in TABLE.findall(PAGE) for name in names.split() if method == "comm")
    assert named == Counter(list(CommOptions.model_fields))
    for name in re.findall(r"`method\.options\.(\w+)", PAGE):
        assert name in named


def test_a_table_of_all_options_and_a_wrong_name() -> None:
    page = fill_tables("# Ridge\n\n<!-- options: ridge -->\n<!-- /options -->\n")
    assert "| `features` |" in page and '| `penalty` | $\\lambda$ | "auto" or a number from 1e-06 |' in page
    with pytest.raises(ConfigError, match="options of ridge: penaltie: no such option; did you mean 'penalty'"):
        fill_tables("<!-- options: ridge penaltie -->\n<!-- /options -->\n")
    with pytest.raises(ConfigError, match="'ride': no such method"):
        fill_tables("<!-- options: ride -->\n<!-- /options -->\n")
