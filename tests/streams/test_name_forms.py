"""Class names that are the same name, and names that only look the same."""

from __future__ import annotations

import unicodedata

import pytest

from mmcl_fast.streams.name_forms import fold_name, name_normalizer, normalize_name


@pytest.mark.parametrize("name", ["café", "Ångström", "각", "한국", "Việt Nam", "cat"])
def test_both_unicode_forms_are_one_name(name: str) -> None:
    composed, apart = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    assert normalize_name(composed) == normalize_name(apart) == composed


@pytest.mark.parametrize("pair", [("Cat", "cat"), ("cat ", "cat"), ("oat_milk", "oat  milk"), ("ﬁsh", "fish")])
def test_names_that_look_alike_stay_two_names(pair: tuple[str, str]) -> None:
    assert normalize_name(pair[0]) != normalize_name(pair[1]) and fold_name(pair[0]) == fold_name(pair[1])


@pytest.mark.parametrize("pair", [("Straße", "STRASSE"), ("cat\u200b", "cat"), ("e-mail", "E mail")])
def test_case_and_invisible_characters_fold(pair: tuple[str, str]) -> None:
    assert fold_name(pair[0]) == fold_name(pair[1])


@pytest.mark.parametrize("pair", [("cat", "cats"), ("é", "e"), ("3 4", "34")])
def test_different_names_do_not_fold_to_one(pair: tuple[str, str]) -> None:
    assert fold_name(pair[0]) != fold_name(pair[1])


def test_stored_names_are_read_in_one_form_unless_two_would_become_one() -> None:
    apart, composed = unicodedata.normalize("NFD", "café"), "café"
    assert name_normalizer([("image", apart), ("image", "tea")])(apart) == composed
    assert name_normalizer([("image", apart), ("audio", composed)])(apart) == composed  # a name in each modality
    assert name_normalizer([("image", apart), ("image", composed)])(apart) == apart
