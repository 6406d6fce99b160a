"""The feature cache when things go wrong: other processes, kills, damage, a full disk, too small a budget."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mmcl_fast.feature_cache import new_file
from mmcl_fast.feature_cache import request as cache_request
from mmcl_fast.feature_cache import store as cache_store
from mmcl_fast.feature_cache.cache import FeatureCache
from mmcl_fast.feature_cache.shard import Damaged, Shard, read_keys
from mmcl_fast.feature_cache.store import clear, size_of, usage
from tests.feature_cache.cached import ask, pictures, same, texts
from tests.toy import ToyEncoder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Small shards, and a process that has verified nothing yet."""
    monkeypatch.setattr(cache_request, "SHARD_SAMPLES", 5)
    monkeypatch.setattr(cache_store, "_verified", set())
    gc.collect()


def process(program: str, *arguments: object) -> subprocess.Popen:
    """A Python process with the test's modules, shards of five samples and ``folder``, the first argument."""
    start = (
        "import sys, os\nfrom pathlib import Path\nfrom mmcl_fast.feature_cache import request as cache_request\n"
        "from mmcl_fast.feature_cache.cache import FeatureCache\nfrom tests.feature_cache.cached import ask, texts\n"
        "from tests.toy import ToyEncoder\ncache_request.SHARD_SAMPLES = 5\n"
        "folder = Path(sys.argv[1])\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", start + program, *map(str, arguments)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def finished(running: subprocess.Popen, code: int = 0) -> str:
    out, err = running.communicate(timeout=300)
    assert running.returncode == code, err
    return out + err


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.shard"))


def test_processes_share_a_folder_at_the_same_time(tmp_path):
    program = (
        "import hashlib\nsamples = texts(40)[int(sys.argv[2]):][:30]\nprint(flush=True)\ninput()\n"
        "ask(folder, samples)\ntokens, count = ask(folder, samples)\nassert count == 0\n"
        "print(hashlib.sha256(tokens.query.numpy().tobytes()).hexdigest())\n"
    )
    running = [process(program, tmp_path, start) for start in (0, 10)]
    for one in running:
        one.stdout.readline()
    for one in running:
        one.stdin.write("\n")
        one.stdin.flush()
    assert len({finished(one) for one in running}) == 2
    tokens, count = ask(tmp_path, texts(40))
    assert count == 0 and same(tokens, ask(None, texts(40))[0])
    assert not list(tmp_path.glob("*/*.part"))


@pytest.mark.parametrize(("call", "which"), [("replace", 4), ("fsync", 5)])
def test_a_process_killed_while_it_writes_loses_the_shard_under_way_at_most(tmp_path, call, which):
    program = (
        f"real, calls = os.{call}, []\n"
        f"def dies(*a):\n    calls.append(a)\n    if len(calls) == {which}: os.kill(os.getpid(), 9)\n"
        f"    return real(*a)\nos.{call} = dies\nask(folder, texts(40))\n"
    )
    finished(process(program, tmp_path), -signal.SIGKILL)
    written = shards(tmp_path)
    assert written and all(len(read_keys(file)) == 5 for file in written)
    tokens, count = ask(tmp_path, texts(40))
    assert count == 40 - 5 * len(written) and same(tokens, ask(None, texts(40))[0])
    left = list(tmp_path.glob("*/*.part"))
    for file in left:
        os.utime(file, (time.time() - 7200,) * 2)
    clear(tmp_path, ["nothing"])
    assert not list(tmp_path.glob("*/*.part")) and len(shards(tmp_path)) >= 8


DAMAGE = {
    "empty": lambda data: b"",
    "ten bytes": lambda data: data[:10],
    "half": lambda data: data[: len(data) // 2],
    "one byte less": lambda data: data[:-1],
    "one byte more": lambda data: data + b"\0",
    "another file": lambda data: b"\x89PNG" * (len(data) // 4),
    "a bit of the magic": lambda data: flipped(data, 0),
    "a bit of the header's length": lambda data: flipped(data, 9),
    "a bit of the header": lambda data: flipped(data, 40),
    "a bit of the keys": lambda data: flipped(data, 300),
    "a bit of the last token": lambda data: flipped(data, -1),
}


def flipped(data: bytes, at: int, bit: int = 4) -> bytes:
    out = bytearray(data)
    out[at] ^= 1 << bit
    return bytes(out)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_damaged_shard_is_dropped_with_a_line_and_computed_again(tmp_path, caplog, damage, kind):
    samples = pictures(tmp_path / "data", 12) if kind == "image" else texts(12)
    right = ask(tmp_path / "cache", samples)[0].load()
    gc.collect()
    cache_store._verified.clear()
    victim = shards(tmp_path / "cache")[0]
    rows = len(read_keys(victim))
    victim.write_bytes(DAMAGE[damage](victim.read_bytes()))
    tokens, count = ask(tmp_path / "cache", samples)
    assert count == rows and same(tokens, right) and not victim.exists()
    assert [r.getMessage() for r in caplog.records] == [caplog.records[0].getMessage()]
    assert victim.name in caplog.text and "computed again" in caplog.text
    assert ask(tmp_path / "cache", samples)[1] == 0


def test_no_bit_of_a_shard_may_change_unseen(tmp_path):
    ask(tmp_path, texts(3))
    data = shards(tmp_path)[0].read_bytes()
    whole = Shard(data, verify=True)
    rng, silent = np.random.default_rng(0), 0
    for at in [*range(400), *rng.integers(0, len(data), 300)]:
        try:
            other = Shard(flipped(data, int(at), int(rng.integers(8))), verify=True)
        except Damaged:
            continue
        except Exception as fault:  # whatever else: a reader must not meet it
            pytest.fail(f"byte {at}: {fault!r}")
        silent += 1  # between two parts, where nothing is read
        for name in ("starts", "query", "tokens", "mask"):
            assert np.array_equal(getattr(whole, name), getattr(other, name))
    assert silent < 70


def test_a_file_of_the_memo_that_is_cut_does_no_harm(tmp_path):
    samples = pictures(tmp_path / "data", 4)
    ask(tmp_path / "cache", samples)
    for file in (tmp_path / "cache" / "files").iterdir():
        file.write_bytes(file.read_bytes()[:-5])
    assert ask(tmp_path / "cache", samples)[1] == 0


def test_over_the_budget_the_least_recently_used_go(tmp_path):
    sets = [texts(40)[i : i + 10] for i in range(0, 40, 10)]
    for n, some in enumerate(sets[:3]):
        ask(tmp_path, some)
        gc.collect()
        for file in shards(tmp_path):
            if time.time() - file.stat().st_mtime < 60:
                os.utime(file, (time.time() - 1000 + 100 * n,) * 2)
    ask(tmp_path, sets[0])  # used again: the second set is the oldest now
    gc.collect()
    budget = size_of(tmp_path) / 1e9
    ask(tmp_path, sets[3], budget_gb=budget)
    gc.collect()
    assert size_of(tmp_path) <= budget * 1e9
    assert [ask(tmp_path, some, budget_gb=1)[1] for some in (sets[0], sets[2], sets[3], sets[1])] == [0, 0, 0, 10]


def test_a_task_larger_than_the_budget_uses_memory_and_without_memory_decodes_again(tmp_path, caplog):
    samples = pictures(tmp_path / "data", 23)
    right, _ = ask(None, samples, views=2, seed=1)
    size = size_of_all(tmp_path / "whole", samples)
    for memory, name in ((None, "memory"), (0, "again"), (size // 5, "some")):
        caplog.clear()
        encoder = ToyEncoder()
        cache = FeatureCache(tmp_path / name, budget_gb=size / 2e9, batch=1, memory=memory)
        tokens = cache.tokens(encoder, samples, views=2, seed=1, keep=True)
        computed = len(encoder.trunk_calls)
        assert computed == 46 and 0 < size_of(tmp_path / name) <= size / 2
        assert same(tokens, right) and same(tokens[[45, 0, 30, 45]], right[[45, 0, 30, 45]])
        assert (len(encoder.trunk_calls) > computed) == (name != "memory")
        assert len(caplog.records) == 1 and "train.cache_gb" in caplog.text
        used = [p.name for p in shards(tmp_path / name)]
        other = cache.tokens(encoder, texts(5))
        assert len(other) == 5 and [p.name for p in shards(tmp_path / name) if p.name in used] == used, "in use: stays"


def size_of_all(folder: Path, samples) -> int:
    ask(folder, samples, views=2, seed=1)
    return size_of(folder)


@pytest.mark.parametrize("call", ["fsync", "replace", "write"])
def test_a_full_disk_ends_the_writing_and_not_the_run(tmp_path, monkeypatch, caplog, call):
    samples, full = texts(30), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    right, _ = ask(None, samples)
    done = []

    def fails(real):
        def run(*a, **k):
            done.append(a)
            if len(done) > 4:
                raise full
            return real(*a, **k)

        return run

    cache = FeatureCache(tmp_path, batch=1)
    with monkeypatch.context() as patch:
        if call == "write":
            patch.setattr(cache_store, "write_new_file", fails(new_file.write_new_file))
        else:
            patch.setattr(new_file.os, call, fails(getattr(os, call)))
        tokens = cache.tokens(ToyEncoder(), samples)
        assert same(tokens, right)
    assert len(caplog.records) == 1 and "No space left on device" in caplog.text
    written = len(shards(tmp_path))
    assert 0 < written < 6 and not list(tmp_path.rglob("*.part"))
    cache.tokens(ToyEncoder(), texts(40)[30:])
    assert len(shards(tmp_path)) == written and len(caplog.records) == 1
    tokens, count = ask(tmp_path, samples)
    assert count == 30 - 5 * written and same(tokens, right)


def test_a_real_limit_on_file_sizes_is_met_the_same_way(tmp_path):
    program = (
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))\n"
        "tokens, count = ask(folder, texts(12))\nassert count == 12 and len(tokens[:].tokens) == 12\n"
    )
    assert "File too large" in finished(process(program, tmp_path))
    assert not shards(tmp_path) and not list(tmp_path.rglob("*.part"))


def test_the_cache_leaves_the_disk_some_room(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(cache_store, "DISK_RESERVE", 10**18)
    tokens, _ = ask(tmp_path, texts(12))
    assert same(tokens, ask(None, texts(12))[0]) and not shards(tmp_path) and len(caplog.records) >= 1


def test_a_folder_cleared_while_it_is_in_use(tmp_path):
    encoder = ToyEncoder()
    cache = FeatureCache(tmp_path, batch=1)
    tokens = cache.tokens(encoder, texts(12))
    finished(process("from mmcl_fast.feature_cache.store import clear\nprint(clear(folder))\n", tmp_path))
    assert not usage(tmp_path) and same(tokens, ask(None, texts(12))[0])
    del tokens
    gc.collect()
    before = len(encoder.trunk_calls)
    assert len(cache.tokens(encoder, texts(12))) == 12 and len(encoder.trunk_calls) == before + 12
    assert usage(tmp_path)[0].samples == 12


def test_memory_stays_flat_over_a_hundred_tasks(tmp_path):
    program = (
        "import gc, resource, torch\nfrom mmcl_fast.feature_cache import store as cache_store\n"
        "from mmcl_fast.encoders.base import Tokens\nimport dataclasses\n"
        "class Wide(ToyEncoder):\n"
        "    def trunk(self, batch, modality):\n"
        "        return Tokens(torch.full((len(batch), 32, 512), 1.0), torch.ones(len(batch), 48))\n"
        "def resident():\n"
        "    gc.collect()\n"
        "    return int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6\n"
        "cache, encoder = FeatureCache(folder, memory=8_000_000), Wide()\n"
        "cache_request.SHARD_SAMPLES = 64\n"
        "some = texts(1)[0]\n"
        "def task(t):\n"
        "    return [dataclasses.replace(some, text=f'{t} {i}') for i in range(40)]\n"
        "for t in range(100):\n"
        "    tokens = cache.tokens(encoder, task(t))\n"
        "    assert tokens[torch.randperm(40)[:32]].tokens.shape == (32, 32, 512)\n"
        "    for old in (t, t // 2, 0):\n"
        "        cache.tokens(encoder, task(old), keep=True)[:].tokens.sum()\n"
        "    if t == 20: first = resident()\n"
        "del tokens\n"
        "grown, total = resident() - first, cache_store.size_of(folder) / 1e6\n"
        "assert len(cache_store._open) <= 6, len(cache_store._open)\n"
        "assert total > 120 and grown < 20, (grown, total)\n"
    )
    finished(process(program, tmp_path))
