"""The loader: order, ranks, saved positions, broken files and memory."""

import json
import random
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from mmcl_fast.errors import ConfigError, MediaError, StreamError
from mmcl_fast.media import TextSpec, decode, loader
from mmcl_fast.media.engines.engine import make_thread_pool
from mmcl_fast.media.engines.loader import make_engine
from tests.media.files import plain


@dataclass
class Item:
    modality: str
    key: str
    path: Path | None = None
    text: str | None = None


@pytest.fixture
def greys(tmp_path) -> list[Item]:
    """Write item i as a grey of 10 i."""
    items = []
    for i in range(23):
        Image.new("L", (16, 16), i * 10).save(tmp_path / f"{i}.png")
        items.append(Item("image", str(i), tmp_path / f"{i}.png"))
    return items


def shown(batch: torch.Tensor) -> list[int]:
    """Return the items that the pixels of a batch show."""
    return (batch.mean((1, 2, 3, 4)) * 25.5).round().int().tolist()


def indices_of(batches) -> list[int]:
    return [i for indices, _ in batches for i in indices]


def no_threads_left() -> bool:
    return not [t for t in threading.enumerate() if t.name.startswith("mmcl-fast-media")]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_order_and_batches(greys, workers):
    batches = loader(greys, plain(), workers=workers, batch_size=5)
    assert len(batches) == 5
    for _ in range(2):
        seen = list(batches)
        assert indices_of(seen) == list(range(23))
        assert [len(batch) for _, batch in seen] == [5, 5, 5, 5, 3]
        assert seen[0][1].shape == (5, 1, 3, 8, 8)
        assert [i for _, batch in seen for i in shown(batch)] == list(range(23))
    assert (batches.epoch, batches.stats.items, batches.stats.fallbacks) == (2, 46, 0)


def test_equals_decode_in_every_view(greys):
    for view in (0, 2):
        got = torch.cat([batch for _, batch in loader(greys, plain(), view=view, seed=7, batch_size=4)])
        want = [decode(item.path, "image", plain(), view=view, seed=7, key=item.key) for item in greys]
        assert torch.equal(got, torch.stack(want))


def test_texts(tmp_path):
    (tmp_path / "a.txt").write_text("from a file")
    items = [Item("text", "1", text="inline"), Item("text", "2", path=tmp_path / "a.txt")]
    assert list(loader(items, TextSpec(max_chars=6))) == [([0, 1], ["inline", "from a"])]
    assert list(loader(items, TextSpec(max_chars=6), backend="dali")) == [([0, 1], ["inline", "from a"])]
    assert list(loader([], TextSpec())) == []
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    assert list(loader(items, TextSpec(), on_error="skip")) == [([0], ["inline"])]


# order and shards


def test_shuffle_draws_each_epoch_from_the_seed(greys):
    def epochs(seed: int) -> list[list[int]]:
        batches = loader(greys, plain(), batch_size=5, shuffle=True, seed=seed)
        return [indices_of(batches) for _ in range(2)]

    first, second = epochs(3)
    assert sorted(first) == sorted(second) == list(range(23))
    assert first != second and first != list(range(23))
    assert epochs(3) == [first, second] and epochs(4)[0] != first
    for indices, batch in loader(greys, plain(), batch_size=5, shuffle=True, seed=3, epoch=1):
        assert indices == second[: len(indices)] and shown(batch) == indices
        del second[: len(indices)]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("world_size", [2, 4, 30])
def test_every_item_is_on_exactly_one_rank(greys, world_size, shuffle):
    ranks = [
        loader(greys, plain(), workers=0, batch_size=3, shuffle=shuffle, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    parts = [list(rank) for rank in ranks]
    assert Counter(i for part in parts for i in indices_of(part)) == Counter(range(23))
    assert [len(part) for part in parts] == [len(rank) for rank in ranks]
    sizes = [len(indices_of(part)) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_the_former_name_of_the_world_size_still_works(greys):
    former, present = (
        loader(greys, plain(), workers=0, batch_size=3, rank=1, **{name: 2}) for name in ("world", "world_size")
    )
    assert former.world_size == 2 and former.state_dict() == present.state_dict()
    assert indices_of(list(former)) == indices_of(list(present)) == list(range(1, 23, 2))
    with pytest.raises(ConfigError, match="rank = 2, world_size = 2"):
        loader(greys, plain(), rank=2, world_size=2)


# position


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_where_another_stopped(greys, workers):
    """It works at every batch of two epochs, although the threads had decoded further."""
    options = {"batch_size": 4, "shuffle": True, "seed": 5, "workers": workers, "prefetch": 3, "rank": 1, "world": 2}
    whole, states = loader(greys, plain(), **options), []
    seen, wanted = [], []
    for _ in range(2):
        states.append((whole.state_dict(), len(wanted)))
        for batch in whole:
            wanted.append(batch)
            states.append((whole.state_dict(), len(wanted)))
    for state, position in states:
        part = loader(greys, plain(), **options)
        part.load_state_dict(json.loads(json.dumps(state)))
        seen = wanted[:position]
        while part.epoch < 2:
            seen = seen + list(part)
        assert [i for i, _ in seen] == [i for i, _ in wanted]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(seen, wanted))


def test_left_early_it_begins_the_epoch_anew(greys):
    batches = loader(greys, plain(), batch_size=5, shuffle=True)
    iterator = iter(batches)
    first = next(iterator)[0]
    assert batches.state_dict()["batches"] == 1
    iterator.close()
    assert no_threads_left()
    assert next(iter(batches))[0] == first and batches.epoch == 0


def test_a_state_of_another_loader_is_refused(greys):
    state = loader(greys, plain(), batch_size=5).state_dict()
    others = [
        ({"batch_size": 4}, "batch_size was 5, is 4"),
        ({"batch_size": 5, "seed": 1}, "seed was 0, is 1"),
        ({"batch_size": 5, "shuffle": True}, "shuffle was False"),
        ({"batch_size": 5, "world": 2}, "world was 1, is 2"),
    ]
    for options, message in others:
        with pytest.raises(StreamError, match=message):
            loader(greys, plain(), **options).load_state_dict(state)
    with pytest.raises(StreamError, match="items was 23, is 22"):
        loader(greys[1:], plain(), batch_size=5).load_state_dict(state)
    for items, spec in ((greys[::-1], plain()), (greys, plain(size=9))):
        with pytest.raises(StreamError, match="sha256 of spec and keys"):
            loader(items, spec, batch_size=5).load_state_dict(state)
    fresh = loader(greys, plain(), batch_size=5)
    for broken in ({}, {**state, "batches": 99}, {**state, "epoch": "one"}, {**state, "loader": None}):
        with pytest.raises(StreamError, match="^loader state: "):
            fresh.load_state_dict(broken)
    assert indices_of(fresh) == list(range(23))


# broken files


@pytest.mark.parametrize("workers", [0, 2])
def test_the_first_broken_item_stops_the_loader_with_its_name(greys, workers):
    for i in (14, 12):
        greys[i].path.write_bytes(b"not a picture at all")
    batches, got = loader(greys, plain(), workers=workers, batch_size=5), []
    with pytest.raises(MediaError, match="12.png: cannot be decoded as image.*its content is text"):
        for indices, _ in batches:
            got += indices
    assert got == list(range(10)) and batches.state_dict()["batches"] == 2
    assert no_threads_left()


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_leaves_broken_items_out_and_lists_them(greys, workers):
    broken = [0, 6, 7, 10, 11, 12, 13, 14, 22]
    for i in broken:
        greys[i].path.write_bytes(b"not a picture at all")
    batches = loader(greys, plain(), workers=workers, batch_size=5, on_error="skip")
    for _ in range(2):
        seen = list(batches)
        assert [indices for indices, _ in seen] == [[1, 2, 3, 4], [5, 8, 9], [15, 16, 17, 18, 19], [20, 21]]
        assert all(shown(batch) == indices for indices, batch in seen)
    assert [i for i, _ in batches.faults] == broken
    assert all(
        f"{i}.png: cannot be decoded" in str(error) and error.__traceback__ is None for i, error in batches.faults
    )
    assert batches.stats.items == 2 * 14


def test_what_was_skipped_is_part_of_the_position(greys):
    greys[2].path.write_bytes(b"")
    batches = loader(greys, plain(), batch_size=5, on_error="skip")
    next(iter(batches))
    other = loader(greys, plain(), batch_size=5, on_error="skip")
    other.load_state_dict(batches.state_dict())
    assert indices_of(other) == list(range(5, 23))
    assert [(i, str(e)) for i, e in other.faults] == [(i, str(e)) for i, e in batches.faults] and other.faults


# the rest


def test_torch_threads_stay_as_they_were():
    before, inside = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        pool = make_thread_pool(2)
        inside = list(pool.map(lambda _: torch.get_num_threads(), range(4)))
        pool.shutdown()
        late = []
        thread = threading.Thread(target=lambda: late.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert (inside, torch.get_num_threads(), late) == ([1] * 4, 2, [2])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0"),
        ({"workers": -1}, "workers = -1"),
        ({"rank": 2, "world": 2}, "rank = 2"),
        ({"on_error": "ignore"}, "'ignore': use one of error, skip"),
        ({"backend": "gpu"}, "'gpu': use one of auto"),
    ],
)
def test_nonsense_is_refused(greys, options, message):
    with pytest.raises(ConfigError, match=message):
        loader(greys, plain(), **options)


def test_auto_takes_dali_on_a_gpu_where_it_is_usable(monkeypatch):
    from mmcl_fast.media.engines.dali import engine as dali

    why_not = None
    monkeypatch.setattr(dali, "available", lambda device: why_not)
    monkeypatch.setattr(dali, "DaliEngine", lambda spec, **options: ("dali", options))
    options = {"device": torch.device("cuda", 1), "workers": 3, "batch_size": 5}
    assert make_engine(plain(), "cuda:1", workers=3, batch_size=5) == ("dali", options)
    assert make_engine(plain(), "cpu").name == make_engine(plain(), "cuda", "cpu").name == "cpu"
    assert make_engine(TextSpec(), "cuda").name == "cpu"
    why_not = "not installed: pip install it"
    assert make_engine(plain(), "cuda").name == "cpu"
    with pytest.raises(ConfigError, match="^media backend 'dali': not installed: pip install it"):
        make_engine(plain(), "cuda", "dali")


def test_dali_behind_the_loader(greys):
    """Order, position and skipped items are the same as with the CPU backend."""
    pytest.importorskip("nvidia.dali")
    for i in (3, 11):
        greys[i].path.write_bytes(b"not a picture at all")
    options = {"batch_size": 4, "shuffle": True, "on_error": "skip"}
    batches = loader(greys, plain(), backend="dali", **options)
    wanted = list(loader(greys, plain(), backend="cpu", **options))
    first = next(iterator := iter(batches))
    state = batches.state_dict()
    iterator.close()
    other = loader(greys, plain(), backend="dali", **options)
    other.load_state_dict(state)
    for (indices, batch), (wanted_indices, wanted_batch) in zip([first, *other], wanted, strict=True):
        assert indices == wanted_indices and (batch - wanted_batch).abs().max() < 5 / 255
    assert sorted(i for i, _ in other.faults) == [3, 11] and other.engine.name == "dali"
    with pytest.raises(MediaError, match="3.png"):
        list(loader(greys, plain(), backend="dali", batch_size=4))


@pytest.mark.gpu
def test_batches_arrive_on_the_gpu(greys):
    batches = loader(greys, plain(), "cuda", backend="cpu", batch_size=5)
    for indices, batch in batches:
        assert batch.is_cuda and shown(batch) == indices


MEMORY = """
import sys
from pathlib import Path
from types import SimpleNamespace
from mmcl_fast.media import VisualSpec
from mmcl_fast.media import loader

def resident():
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096 / 2**20

items = [SimpleNamespace(modality="image", key=p.name, path=p, text=None) for p in sorted(Path(sys.argv[1]).iterdir())]
done, memory = 0, {}
batches = loader(items, VisualSpec(size=48), batch_size=20, workers=2, shuffle=True, on_error="skip")
for indices, batch in batches:
    done = batches.stats.items + len(batches.faults)
    if done in (1000, 10000):
        memory[done] = resident()
print(memory[1000], memory[10000], batches.stats.items, len(batches.faults))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_stays_flat_over_ten_thousand_files(tmp_path):
    """Memory stays within 50 MB from the 1,000th to the 10,000th file; one file in a hundred is broken and skipped."""
    import io

    rng, kinds = random.Random(0), []
    for size in (40, 64, 100):
        for format in ("JPEG", "PNG"):
            data = io.BytesIO()
            Image.effect_noise((size, size), 60).convert("RGB").save(data, format)
            kinds.append(data.getvalue())
    for i in range(10_000):
        data = rng.choice(kinds)
        (tmp_path / f"{i:05}.img").write_bytes(data[: len(data) // 2] if i % 100 == 7 else data)
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    early, late, items, faults = (float(word) for word in done.stdout.split())
    assert (items, faults) == (9_900, 100)
    assert late - early < 50, f"{early:.0f} MB after 1,000 files, {late:.0f} MB after 10,000"
