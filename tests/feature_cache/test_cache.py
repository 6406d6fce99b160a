"""The feature cache: what is found again, what is computed anew, what a sample's tokens depend on."""

from __future__ import annotations

import builtins
import dataclasses
import os

import pytest
import torch

from mmcl_fast.errors import MediaError, RunError
from mmcl_fast.feature_cache import content_hashes
from mmcl_fast.feature_cache import keys as cache_keys
from mmcl_fast.feature_cache import request as cache_request
from mmcl_fast.feature_cache.cache import FeatureCache, default_folder
from mmcl_fast.feature_cache.content_hashes import ContentHashes
from mmcl_fast.feature_cache.keys import KeyTable
from mmcl_fast.feature_cache.stored_tokens import StoredTokens
from mmcl_fast.feature_cache.versions import HISTORY
from mmcl_fast.media.source import Slice
from mmcl_fast.streams import Stream
from tests.feature_cache.cached import ask, pictures, same, texts
from tests.toy import ToyEncoder, write_folder


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(cache_request, "SHARD_SAMPLES", 7)
    monkeypatch.setattr(cache_request, "LOOKUP_BLOCK", 16)


@pytest.fixture
def encoder():
    return ToyEncoder()


def test_after_the_first_pass_no_file_is_decoded_or_even_opened(tmp_path, monkeypatch):
    samples = pictures(tmp_path / "data", 20)
    first, count = ask(tmp_path / "cache", samples, views=2)
    assert count == 40
    steps = []
    FeatureCache(tmp_path / "cache").tokens(ToyEncoder(), samples * 2, views=2, advance=steps.append)
    assert sum(steps) == 80
    monkeypatch.setattr("mmcl_fast.media.engines.engine.decode", lambda *a, **k: pytest.fail("decoded again"))
    real, opened = builtins.open, []
    monkeypatch.setattr(builtins, "open", lambda f, *a, **k: (opened.append(str(f)), real(f, *a, **k))[1])
    again, count = ask(tmp_path / "cache", samples, views=2)
    assert count == 0 and same(first, again) and opened
    assert not any(str(tmp_path / "data") in name for name in opened)


def test_other_tasks_orders_and_seeds_find_the_same_samples(tmp_path):
    write_folder(tmp_path / "data")
    for n, options in enumerate(({"classes_per_task": 2}, {"classes_per_task": 3, "order": "random", "seed": 5}, {})):
        encoder = ToyEncoder()
        cache = FeatureCache(tmp_path / "cache")
        for task in Stream.from_folder(tmp_path / "data", **options):
            cache.tokens(encoder, task.train, seed=n)
        assert bool(encoder.trunk_calls) == (n == 0)


def test_a_changed_file_is_computed_again_and_an_equal_one_is_not(tmp_path):
    samples = pictures(tmp_path / "data", 6)
    ask(tmp_path / "cache", samples)
    os.utime(samples[0].path)  # touched: read again, found under its content
    assert ask(tmp_path / "cache", samples)[1] == 0
    old = samples[1].path.stat()
    samples[1].path.write_bytes(samples[2].path.read_bytes())  # another content that is known, too
    assert ask(tmp_path / "cache", samples)[1] == 0
    pictures(tmp_path / "data", 1, seed=9)
    os.utime(samples[0].path, ns=(old.st_atime_ns, old.st_mtime_ns))
    tokens, count = ask(tmp_path / "cache", samples)
    assert count == 1 and same(tokens, ask(None, samples)[0])
    assert torch.equal(tokens.tokens[1], tokens.tokens[2])


def test_one_content_under_many_names_is_computed_once(tmp_path):
    samples = pictures(tmp_path / "data", 3)
    for i in range(4):
        (tmp_path / "data" / f"copy{i}.png").write_bytes(samples[1].path.read_bytes())
    copies = [dataclasses.replace(samples[1], path=tmp_path / "data" / f"copy{i}.png") for i in range(4)]
    tokens, count = ask(tmp_path / "cache", [*copies, *samples])
    assert count == 3 and len(tokens) == 7
    assert all(torch.equal(tokens.tokens[i], tokens.tokens[5]) for i in range(4))


def test_members_of_a_tar_are_known_by_their_bytes(tmp_path):
    samples = pictures(tmp_path / "data", 3)
    parts = [s.path.read_bytes() for s in samples]
    (tmp_path / "all.tar").write_bytes(b"".join(parts))
    starts = [0, len(parts[0]), len(parts[0]) + len(parts[1])]
    members = [
        dataclasses.replace(s, path=Slice(str(tmp_path / "all.tar"), start, len(part), s.path.name))
        for s, start, part in zip(samples, starts, parts)
    ]
    ask(tmp_path / "cache", samples)
    tokens, count = ask(tmp_path / "cache", members)
    assert count == 0 and same(tokens, ask(None, samples)[0])


def test_another_encoder_spec_version_or_view_is_computed_anew(tmp_path, monkeypatch):
    samples = pictures(tmp_path / "data", 5)
    ask(tmp_path / "cache", samples)
    assert ask(tmp_path / "cache", samples, ToyEncoder(seed=1))[1] == 5
    assert ask(tmp_path / "cache", samples, views=2, seed=3)[1] == 5
    assert ask(tmp_path / "cache", samples, views=2, seed=3)[1] == 0
    assert ask(tmp_path / "cache", samples, views=2, seed=4)[1] == 5
    renamed = [dataclasses.replace(s, key="x" + s.key) for s in samples]  # random views are drawn by key
    assert ask(tmp_path / "cache", renamed, views=2, seed=4)[1] == 5
    other = ToyEncoder()
    spec = dataclasses.replace(other.spec("image"), resize="crop")
    monkeypatch.setattr(other, "spec", lambda modality: spec)
    assert ask(tmp_path / "cache", samples, other)[1] == 5
    limit = dataclasses.replace(ToyEncoder().spec("image"), max_pixels=10_000)
    other = ToyEncoder()
    monkeypatch.setattr(other, "spec", lambda modality: limit)
    assert ask(tmp_path / "cache", samples, other)[1] == 0
    monkeypatch.setitem(HISTORY, "image", HISTORY["image"] | {99: "decoded otherwise"})
    assert ask(tmp_path / "cache", samples)[1] == 5


def test_a_text_has_one_view(tmp_path):
    tokens, count = ask(tmp_path / "cache", texts(9), views=3, seed=1)
    assert count == 9 and len(tokens) == 27 and torch.equal(tokens.tokens[:9], tokens.tokens[18:])


def test_what_is_shorter_than_a_limit_of_text_is_another_sample(tmp_path, monkeypatch):
    sample = texts(7)
    ask(tmp_path / "cache", sample)
    other = ToyEncoder()
    spec = dataclasses.replace(other.spec("text"), max_chars=6)
    monkeypatch.setattr(other, "spec", lambda modality: spec)
    tokens, count = ask(tmp_path / "cache", sample, other)
    assert count == 7 and tokens.tokens.shape[1] == 1


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_samples_bits_do_not_depend_on_its_company(tmp_path, kind):
    samples = pictures(tmp_path / "data", 21) if kind == "image" else texts(21)
    whole, _ = ask(None, samples, batch=None)
    order = torch.randperm(21, generator=torch.Generator().manual_seed(1)).tolist()
    for part in (order, order[:5], [13]):
        tokens, _ = ask(None, [samples[i] for i in part], batch=None)
        length = tokens.tokens.shape[1]
        assert torch.equal(tokens.tokens, whole.tokens[part, :length]) and torch.equal(tokens.query, whole.query[part])


def test_the_embedded_encoders_bits_do_not_depend_on_the_company_either(tmp_path):
    from mmcl_fast.encoders import load_encoder

    encoder, samples = load_encoder("embedded"), pictures(tmp_path / "data", 10)
    whole, part = (FeatureCache(None).tokens(encoder, some) for some in (samples, samples[8:5:-1]))
    assert torch.equal(whole.tokens[[8, 7, 6]], part.tokens) and torch.equal(whole.query[[8, 7, 6]], part.query)
    words = texts(10)
    whole, part = (FeatureCache(None).tokens(encoder, some) for some in (words, words[6:3:-1]))
    assert torch.equal(whole.query[[6, 5, 4]], part.query)


def test_a_run_gives_the_same_bits_whatever_was_cached(tmp_path):
    from mmcl_fast.learning import Learner
    from tests.learning.test_learner import FAST

    root = write_folder(tmp_path / "data")
    states = []
    for folder, order in ((None, 1), ("cache", 7), ("cache", 1)):
        stream = Stream.from_folder(root, classes_per_task=2, order="random", seed=order)
        learner = Learner(
            ToyEncoder(), "comm", options=FAST["comm"], device="cpu", cache_dir=folder and tmp_path / folder
        )
        for task in stream.tasks[:4]:
            learner.learn(task)
        states.append(learner.method.state()[0])
    assert states[0].keys() == states[2].keys() and all(torch.equal(states[0][k], states[2][k]) for k in states[0])


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_view_indexes_as_tensors_do(tmp_path, kind):
    samples = pictures(tmp_path / "data", 17) if kind == "image" else texts(17)
    stored, _ = ask(tmp_path / "cache", samples, views=2)
    plain = stored.load()
    assert isinstance(stored, StoredTokens) and type(plain).__name__ == "Tokens" and len(stored._shards) > 2
    assert len(stored) == len(plain) == 34 and stored.device == plain.device and stored.nbytes >= plain.tokens.nbytes
    assert same(stored, plain) and stored.to("cpu") is stored
    generator = torch.Generator().manual_seed(0)
    for rows in (
        slice(None),
        slice(3, 30),
        slice(0, 7),
        slice(4, 30, 5),
        slice(-5, None),
        slice(9, 9),
        torch.randperm(34, generator=generator),
        torch.tensor([33, 0, 0, -1]),
        [5, 2],
        range(3),
        torch.rand(34, generator=generator) > 0.5,
        torch.tensor([], dtype=torch.long),
        4,
        -1,
        torch.tensor(3),
        torch.tensor([[1, 2], [30, 4]]),
    ):
        rows = list(rows) if isinstance(rows, range) else rows
        assert same(stored[rows], plain[rows]), rows
    for wrong in (34, torch.tensor([34])):
        with pytest.raises(IndexError):
            stored[wrong]


def test_what_is_asked_for_again_stays_ready_within_the_memory(tmp_path, encoder):
    one, two = pictures(tmp_path / "a", 8), pictures(tmp_path / "b", 8, seed=1)
    size = FeatureCache(None).tokens(encoder, one).nbytes
    cache = FeatureCache(tmp_path / "cache", memory=size + 10)
    first = cache.tokens(encoder, one, keep=True)
    assert cache.tokens(encoder, one, keep=True) is first
    assert cache.tokens(encoder, one[::-1], keep=True) is not first  # another order, and it pushes the first out
    second = cache.tokens(encoder, two, keep=True)
    assert cache.tokens(encoder, two) is second and cache.tokens(encoder, one) is not first
    assert cache.tokens(encoder, one) is not cache.tokens(encoder, one)  # keep was not asked for


def test_a_broken_file_is_named_and_what_came_before_it_is_kept(tmp_path):
    samples = pictures(tmp_path / "data", 20)
    whole = samples[12].path.read_bytes()
    samples[12].path.write_bytes(whole[:30])
    with pytest.raises(MediaError, match="012.png"):
        ask(tmp_path / "cache", samples)
    samples[12].path.write_bytes(whole)
    tokens, count = ask(tmp_path / "cache", samples)
    assert count <= 8 and same(tokens, ask(None, samples)[0])
    samples[12].path.unlink()
    with pytest.raises(MediaError, match="012.png.*check the path"):
        ask(tmp_path / "cache", samples)


def test_a_folder_that_cannot_be_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file/cache.*train.cache"):
        FeatureCache(tmp_path / "file" / "cache")
    monkeypatch.setattr(os, "access", lambda *a: False)  # what a user who is not root sees
    with pytest.raises(RunError, match="Permission denied.*train.cache"):
        FeatureCache(tmp_path / "cache")


def test_the_default_folder_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "mmcl_fast" / "trunk" == FeatureCache("auto").folder
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_folder() == tmp_path / "home" / ".cache" / "mmcl_fast" / "trunk"


def test_keys_that_share_their_first_half_are_told_apart():
    import numpy as np

    rng, table = np.random.default_rng(0), KeyTable()
    keys = rng.integers(0, 256, (500, 16), dtype=np.uint8)
    keys[:400, :8] = keys[:4, :8].repeat(100, axis=0)
    for start in range(0, 450, 50):
        table.add(keys[start : start + 50], np.arange(start, start + 50))
        assert table.find(keys[: start + 50]).tolist() == list(range(start + 50))
    assert (table.find(keys[450:]) == cache_keys.NO_PLACE).all()
    table.add(keys[:10], np.arange(1000, 1010))
    assert table.find(keys[:10]).tolist() == list(range(10)), "of equal keys the first counts"
    table.keep(lambda places: places >= 1000)
    assert table.find(keys[:11]).tolist() == [*range(1000, 1010), cache_keys.NO_PLACE]
    assert len(KeyTable().find(keys)) == 500


def test_the_memo_of_contents_is_made_one_and_a_damaged_part_is_read_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(content_hashes, "MAX_MEMOS", 3)
    samples = pictures(tmp_path / "data", 6)
    for sample in samples:
        memo = ContentHashes(tmp_path / "memo", 1)
        memo.digests([sample])
        memo.save()
    assert len(list((tmp_path / "memo").glob("*.memo"))) <= 4
    read = []
    real = content_hashes._digest
    monkeypatch.setattr(content_hashes, "_digest", lambda source: (read.append(source), real(source))[1])
    found = ContentHashes(tmp_path / "memo", 1).digests(samples)
    assert not read and len(set(found)) == 6
    for file in (tmp_path / "memo").glob("*.memo"):
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    assert ContentHashes(tmp_path / "memo", 2).digests(samples) == found and len(read) == 6


def test_results_in_memory_are_one_encoders_alone(tmp_path):
    samples, cache = texts(6), FeatureCache(tmp_path)
    one, two = (cache.tokens(ToyEncoder(seed), samples, keep=True) for seed in (0, 1))
    assert not torch.equal(one.query, two.query) and cache.tokens(ToyEncoder(1), samples, keep=True) is two


def test_a_cache_from_before_the_versions_misses_and_can_be_cleaned(tmp_path):
    """Its stores have names that hash the source code, and its about.json names no modality."""
    from mmcl_fast.feature_cache.store import Store, clear, store_name, usage

    samples = texts(4)
    ask(tmp_path / "new", samples)
    (new,) = (tmp_path / "new").glob("*/*.shard")
    encoder = ToyEncoder()
    name = store_name("1", encoder.fingerprint, "cpu", "a hash of source code")
    about = {"encoder": encoder.name, "fingerprint": encoder.fingerprint, "device": "cpu"}
    Store(tmp_path / "old", name, about, 1e9).describe()
    (tmp_path / "old" / name / new.name).write_bytes(new.read_bytes())
    assert [(u.store, u.encoder, u.modality, u.samples) for u in usage(tmp_path / "old")] == [(name, "toy", "?", 4)]
    assert ask(tmp_path / "old", samples)[1] == 4 and len(usage(tmp_path / "old")) == 2
    assert clear(tmp_path / "old", [name])[0] == 1 and [u.modality for u in usage(tmp_path / "old")] == ["text"]
    assert ask(tmp_path / "old", samples)[1] == 0
