"""The versions in the feature cache's key: the libraries of a modality, and no others."""

from __future__ import annotations

import json
import sys
from importlib import import_module

import pytest

from mmcl_fast import _extension
from mmcl_fast.feature_cache import versions
from mmcl_fast.feature_cache.store import usage
from mmcl_fast.feature_cache.versions import HISTORY, feature_versions, library_version
from mmcl_fast.media.registry import BUILT_IN, REGISTRY
from tests.feature_cache.cached import ask, pictures, texts
from tests.toy import ToyEncoder


@pytest.fixture(autouse=True)
def fresh():
    """No version is remembered from test to test."""
    library_version.cache_clear()
    yield
    library_version.cache_clear()


def test_each_modality_names_its_own_libraries():
    found = {modality: feature_versions(ToyEncoder(), modality, "cpu") for modality in BUILT_IN}
    always = {"features", "decoder", "torch", "kernels"}
    assert found["text"].keys() == always
    assert found["image"].keys() == always | {"pillow", "simplejpeg", "av", "numpy"}
    assert "soundfile" in found["audio"] and "libsndfile-" in found["audio"]["soundfile"]
    assert not {"soundfile", "simplejpeg"} & found["video"].keys() and not {"pillow"} & found["audio"].keys()
    assert "libavcodec-" in found["video"]["av"] and "libjpeg_turbo-" in found["image"]["pillow"]
    assert all(max(HISTORY[m]) == int(found[m]["features"]) for m in BUILT_IN)


def test_history_counts_from_one_without_a_gap():
    assert set(HISTORY) == {*BUILT_IN, versions.CUSTOM} == set(versions.LIBRARIES)
    assert all(list(lines) == list(range(1, len(lines) + 1)) for lines in HISTORY.values())


def test_the_encoders_libraries_count_for_their_modality():
    from mmcl_fast.encoders.clip import ClipEncoder
    from mmcl_fast.encoders.embedded import EmbeddedEncoder

    embedded, clip = EmbeddedEncoder.__new__(EmbeddedEncoder), ClipEncoder.__new__(ClipEncoder)
    assert "tokenizers" in feature_versions(embedded, "text", "cpu")
    assert "tokenizers" not in feature_versions(embedded, "image", "cpu")
    assert {"transformers", "tokenizers"} <= feature_versions(clip, "text", "cpu").keys()
    assert "transformers" in feature_versions(clip, "audio", "cpu")


def test_dali_counts_where_it_decodes(monkeypatch):
    monkeypatch.setattr(versions, "version", lambda name: "2.4" if name == "nvidia-dali-cuda130" else "1")
    assert "nvidia-dali-cuda130" not in feature_versions(ToyEncoder(), "image", "cpu")
    found = feature_versions(ToyEncoder(), "image", "dali")
    assert found["nvidia-dali-cuda130"] == "2.4" and "pillow" in found and found["decoder"] == "dali"


def test_simplejpeg_counts_only_where_it_is_used(monkeypatch):
    assert library_version("simplejpeg") not in ("none", "")
    library_version.cache_clear()
    monkeypatch.setattr(_extension, "load", lambda: (None, "not built"))
    assert library_version("simplejpeg") == "none" == feature_versions(ToyEncoder(), "image", "cpu")["kernels"]


def test_a_library_that_cannot_be_imported_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    assert library_version("soundfile") == "none" and library_version("no-such-distribution") == "none"


@pytest.mark.parametrize(
    ("change", "images", "words"),
    [
        (lambda patch: patch.setitem(HISTORY, "image", HISTORY["image"] | {99: "other"}), 4, 0),
        (lambda patch: patch.setattr(versions, "library_version", lambda name: "another"), 4, 0),
        (lambda patch: patch.setattr(versions, "kernels_version", lambda: "another"), 4, 3),
        (lambda patch: patch.setattr(versions.torch, "__version__", "99"), 4, 3),
    ],
)
def test_other_versions_miss_and_the_old_ones_hit_again(tmp_path, monkeypatch, change, images, words):
    some = pictures(tmp_path / "data", 4)
    ask(tmp_path / "cache", some), ask(tmp_path / "cache", texts(3))
    with monkeypatch.context() as patch:
        change(patch)
        assert ask(tmp_path / "cache", some)[1] == images and ask(tmp_path / "cache", texts(3))[1] == words
    assert ask(tmp_path / "cache", some)[1] == 0 == ask(tmp_path / "cache", texts(3))[1]


def test_a_registered_reader_counts_by_its_source_code(tmp_path, monkeypatch):
    file = tmp_path / "reader_of_heat.py"
    file.write_text("def read(file):\n    return [[0.5]]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    REGISTRY.register("heat", import_module("reader_of_heat").read)
    try:
        found = feature_versions(ToyEncoder(), "heat", "cpu")
        file.write_text("def read(file):\n    return [[0.7]]\n")
        assert feature_versions(ToyEncoder(), "heat", "cpu") == found, "the process runs what it imported"
        versions.reader_hash.cache_clear()
        assert feature_versions(ToyEncoder(), "heat", "cpu")["reader"] != found["reader"]
    finally:
        REGISTRY.unregister("heat")
    assert found["features"] == str(max(HISTORY[versions.CUSTOM])) and "pillow" not in found


def test_a_store_says_its_versions(tmp_path):
    ask(tmp_path, texts(2))
    (store,) = usage(tmp_path)
    about = json.loads((tmp_path / store.store / "about.json").read_text())
    assert store.modality == "text" == about["modality"]
    assert about["versions"] == feature_versions(ToyEncoder(), "text", "cpu")
