"""The DALI backend gives the CPU backend's results for any batch. Only the last tests need a GPU."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mmcl_fast.errors import ConfigError
from mmcl_fast.media import TextSpec, VisualSpec, loader
from mmcl_fast.media.engines.dali import availability
from mmcl_fast.media.engines.dali import engine as dali
from mmcl_fast.media.engines.engine import ThreadEngine
from mmcl_fast.media.engines.loader import make_engine
from tests.media.dali_files import Item, broken, clip, damaged, scene, scenes
from tests.media.files import counting_video, numbers, plain, tone

needs_dali = pytest.mark.skipif(dali.available() is not None, reason="DALI is not installed")
CUDA = "cuda:0"
VIEWS = (0, 1, 2)


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> dict[str, list[Item]]:
    """Return files of each modality; DALI decodes most of them without a GPU."""
    root = tmp_path_factory.mktemp("dali")
    for i, kind in enumerate(("jpg", "png", "webp", "bmp", "gif")):
        scene(90 + 40 * i, 150 - 20 * i, i).save(root / f"{i}.{kind}")
    scene(100, 80).convert("L").save(root / "grey.jpg")
    exif = Image.Exif()
    for turn in (3, 6, 7):
        exif[0x0112] = turn
        scene(100, 80, turn).save(root / f"turned{turn}.jpg", exif=exif)
    for i, (rate, seconds, kind) in enumerate(
        (
            (16000, 1, "wav"),
            (44100, 7, "wav"),
            (22050, 2, "flac"),
            (48000, 6, "ogg"),
            (16000, 25, "wav"),
            (16000, 1, "mp3"),
        )
    ):
        wave = tone(300, rate, seconds) * np.linspace(0.2, 1, rate * seconds) + 0.1 * tone(2500, rate, seconds)
        soundfile.write(root / f"{i}.{kind}", np.stack((wave, 0.5 * wave), 1), rate)
    for i in range(3):
        plane = np.asarray(scene(60 + 50 * i, 100, i).convert("F")) * 20 + 1
        Image.fromarray(plane.astype(np.uint16)).save(root / f"depth{i}.png")
    np.save(root / "depth.npy", np.ones((8, 8), np.float32))
    clip(root / "a.webm", "libvpx-vp9", "yuv420p")
    clip(root / "b.mkv", "libvpx", "yuv420p")
    clip(root / "c.mov", "mjpeg", "yuvj420p")
    clip(root / "d.mp4", "libx264", "yuv420p")
    kinds = {
        "image": ("jpg", "png", "webp", "bmp", "gif"),
        "audio": ("wav", "flac", "ogg", "mp3"),
        "video": ("webm", "mkv", "mov", "mp4"),
    }
    files = sorted(root.iterdir())
    found = {
        modality: [
            Item(modality, path) for path in files if path.suffix[1:] in endings and not path.name.startswith("depth")
        ]
        for modality, endings in kinds.items()
    }
    return found | {"depth": [Item("depth", path) for path in files if path.name.startswith("depth")]}


def batches_of(count: int, size: int) -> list[list[int]]:
    return [list(range(count))[i : i + size] for i in range(0, count, size)]


def run_both(items: list[Item], spec: VisualSpec, view: int = 0, size: int = 4, device: str = "cpu"):
    """Return the chunks of DALI and of the CPU backend."""
    batches = batches_of(len(items), size)
    engines = dali.DaliEngine(spec, device=device, batch_size=size), ThreadEngine(spec, batch_size=size)
    ours, theirs = (list(engine.run(items, batches, view=view, seed=5)) for engine in engines)
    assert [chunk.indices for chunk in ours] == [chunk.indices for chunk in theirs] == batches
    return ours, theirs


def differences(ours, theirs) -> torch.Tensor:
    """Return absolute differences in 1/255, ``[items, F, 3, size, size]``."""
    assert not any(chunk.faults for chunk in (*ours, *theirs))
    return (torch.cat([c.data for c in ours]).cpu() - torch.cat([c.data for c in theirs])).abs() * 255


@needs_dali
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_pictures(media, resize, interpolation):
    for view in VIEWS:
        ours, theirs = run_both(media["image"], plain(size=48, resize=resize, interpolation=interpolation), view)
        assert differences(ours, theirs).max() <= 4
        assert sum(chunk.fallback for chunk in ours) == 1  # the gif


@needs_dali
def test_unscaled_pictures_are_exact(tmp_path):
    for i, options in enumerate(({}, {"quality": 50}, {"progressive": True}, {"subsampling": 0})):
        scene(64, 64, i).save(tmp_path / f"{i}.jpg", **options)
    items = [Item("image", path) for path in sorted(tmp_path.iterdir())]
    assert differences(*run_both(items, plain(size=64))).max() < 1e-3


@needs_dali
def test_a_flip_is_a_flip(tmp_path):
    items = scenes(tmp_path, 8)
    ours, theirs = run_both(items, plain(size=48), view=1)
    assert {bool(dali.draw_view(1, 5, item.key).flip) for item in items} == {True, False}
    assert differences(ours, theirs).max() <= 4


@needs_dali
def test_normalised(media):
    spec = VisualSpec(size=32, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    ours, theirs = run_both(media["image"], spec)
    worst = differences(ours, theirs).amax((0, 1, 3, 4))
    assert (worst * torch.tensor(spec.std) <= 4).all() and worst.max() > 0


@needs_dali
@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_video(media, resize):
    for view in VIEWS:
        ours, theirs = run_both(media["video"], plain("video", 48, frames=4, resize=resize), view)
        assert differences(ours, theirs).mean((1, 2, 3, 4)).max() <= 1
        assert sum(chunk.fallback for chunk in ours) == 1  # H.264


@needs_dali
@pytest.mark.parametrize("name, codec", [("a.webm", "libvpx-vp9"), ("a.mkv", "mjpeg"), ("a.mp4", "mjpeg")])
def test_the_frames_wanted(tmp_path, name, codec):
    items = [Item("video", counting_video(tmp_path / name, 40, codec))]
    for frames in (1, 4, 8, 60):
        (chunk,) = dali.DaliEngine(plain("video", 80, frames=frames)).run(items, [[0]])
        assert numbers(chunk.data[0]) == [int((i + 0.5) * 40 / frames) for i in range(frames)]
        assert chunk.fallback == 0


@needs_dali
@pytest.mark.parametrize("policy", ["repeat", "pad"])
def test_sound(media, policy):
    for view in VIEWS:
        ours, theirs = run_both(media["audio"], plain("audio", 48, window_policy=policy), view)
        assert differences(ours, theirs).max() <= 1e-3 * 255
        assert sum(chunk.fallback for chunk in ours) == 2  # mp3, and 25 seconds


@needs_dali
def test_depth(media):
    for view in VIEWS:
        ours, theirs = run_both(media["depth"], plain("depth", 48), view)
        assert differences(ours, theirs).max() < 1e-3
        assert sum(chunk.fallback for chunk in ours) == 1  # .npy


@needs_dali
def test_sound_and_depth_together_as_one_by_one(media):
    """On a GPU a whole group is finished at once, which must not change results."""
    for modality, rows in (("audio", torch.rand(3, 9000).numpy()), ("depth", np.ones((3, 9, 7, 1), np.uint16))):
        engine = dali.DaliEngine(plain(modality, 32))
        feeds = [dali.Feed((), 0, (), dali.draw_view(view, 0, ""), 9000, 8000) for view in VIEWS]
        ready = [engine.graph.prepare(row, feed) for row, feed in zip(rows, feeds)]
        alone = [engine.graph.images([one], [feed]) for one, feed in zip(ready, feeds)]
        assert torch.allclose(engine.graph.images(ready, feeds), torch.cat(alone), atol=1e-5)


@needs_dali
def test_bad_files_do_not_take_their_batch_down(tmp_path):
    items = scenes(tmp_path, 12)
    damaged(items[1].path), broken(items[4].path), broken(items[5].path)
    items[9].path.write_bytes(b"")
    items[10].path.unlink()
    ours, theirs = run_both(items, plain(size=40), size=6)
    assert [sorted(chunk.faults) for chunk in ours] == [[4, 5], [3, 4]]
    assert [{slot: str(error) for slot, error in chunk.faults.items()} for chunk in ours] == [
        {slot: str(error) for slot, error in chunk.faults.items()} for chunk in theirs
    ]
    assert "04.png" in str(ours[0].faults[4])
    assert [chunk.fallback for chunk in ours] == [3, 2]
    for chunk, other in zip(ours, theirs):
        good = [slot for slot in range(6) if slot not in chunk.faults]
        assert (chunk.data[good] - other.data[good]).abs().max() < 1e-5


@needs_dali
def test_a_fault_keeps_no_batch_alive(tmp_path):
    items = [Item("image", broken(tmp_path / "a.png"))]
    gc.collect()
    gc.disable()
    try:
        (chunk,) = dali.DaliEngine(plain(size=40)).run(items, [[0]])
        fault, data = chunk.faults[0], weakref.ref(chunk.data)
        del chunk
        assert data() is None and "a.png" in str(fault)
    finally:
        gc.enable()


@needs_dali
def test_an_item_of_another_modality_is_a_fault(media):
    ours, theirs = run_both(media["audio"][:1] + media["image"][:1], plain(size=32))
    assert str(ours[0].faults[0]) == str(theirs[0].faults[0]) and len(ours[0].faults) == 1


@needs_dali
def test_a_kind_that_never_works_is_not_tried_for_ever(tmp_path, monkeypatch):
    items = [Item("image", damaged(tmp_path / f"{i}.png")) for i in range(40)]
    engine, builds = dali.DaliEngine(plain(size=40), batch_size=1), []
    build = engine._build
    monkeypatch.setattr(engine, "_build", lambda: builds.append(1) or build())
    chunks = list(engine.run(items, batches_of(40, 1)))
    assert [chunk.fallback for chunk in chunks] == [1] * 40 and not any(chunk.faults for chunk in chunks)
    assert len(builds) < 12


@needs_dali
def test_sound_that_is_no_number(tmp_path):
    wave = np.zeros(8000, np.float32)
    soundfile.write(tmp_path / "good.wav", wave + 0.1, 8000, subtype="FLOAT")
    wave[5] = np.nan
    soundfile.write(tmp_path / "nan.wav", wave, 8000, subtype="FLOAT")
    ours, _ = run_both([Item("audio", tmp_path / "good.wav"), Item("audio", tmp_path / "nan.wav")], plain("audio"))
    assert list(ours[0].faults) == [1] and "nan.wav: holds samples" in str(ours[0].faults[1])


@needs_dali
def test_groups_of_bounded_size(media, monkeypatch):
    spec = plain(size=48)
    whole = torch.cat([chunk.data for chunk in run_both(media["image"], spec)[0]])
    costs, schedule = [], dali._Run._schedule
    monkeypatch.setattr(
        dali._Run,
        "_schedule",
        lambda run, group: (
            schedule(run, group) or costs.append(sum(group.job.feeds[slot].cost for slot in group.slots))
        ),
    )
    monkeypatch.setattr(dali, "BUDGET", 60_000)  # one or two of them
    parts, _ = run_both(media["image"], spec)
    assert max(costs) <= 60_000 and len(costs) > len(parts)
    assert torch.equal(torch.cat([chunk.data for chunk in parts]), whole)
    assert sum(chunk.fallback for chunk in parts) == 1
    monkeypatch.setattr(dali, "BUDGET", 1)  # each is above it by itself
    assert sum(chunk.fallback for chunk in run_both(media["image"], spec)[0]) == len(media["image"])


@needs_dali
def test_batches_of_any_size_in_any_order(media):
    items = media["image"]
    batches = [[3], [2, 1, 0], [0, 0], [], [5, 4, 3, 2]]
    ours, theirs = (
        list(engine(plain(size=32), batch_size=4).run(items, batches)) for engine in (dali.DaliEngine, ThreadEngine)
    )
    assert [chunk.indices for chunk in ours] == batches
    for chunk, other in zip(ours, theirs):
        assert chunk.data.shape == other.data.shape
        assert len(chunk.indices) == 0 or (chunk.data - other.data).abs().max() <= 4 / 255


@needs_dali
def test_stopped_early_and_run_again(media):
    items, spec = media["image"], plain(size=32)
    engine = dali.DaliEngine(spec, batch_size=2)
    drawn = []
    endless = (drawn.append(i) or [i % len(items)] for i in range(10_000))
    run = engine.run(items, endless)
    first = next(run)
    run.close()
    assert len(drawn) <= 8
    assert not [t for t in threading.enumerate() if t.name.startswith("mmcl-fast-media")]
    again = list(engine.run(items, [[0], [1]]))
    assert torch.equal(again[0].data, first.data) and not torch.equal(again[1].data, first.data)


@needs_dali
def test_a_pipeline_serves_many_runs(media, monkeypatch):
    engine, builds = dali.DaliEngine(plain(size=32), batch_size=4), []
    build = engine._build
    monkeypatch.setattr(engine, "_build", lambda: builds.append(1) or build())
    results = [torch.cat([c.data for c in engine.run(media["image"], batches_of(8, 4))]) for _ in range(3)]
    assert len(builds) == 1 and torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@needs_dali
def test_through_the_loader(media):
    items, spec = media["image"], plain(size=32)
    ours, theirs = (
        loader(items, spec, backend=backend, batch_size=4, shuffle=True, seed=3) for backend in ("dali", "cpu")
    )
    assert ours.engine.name == "dali"
    for (indices, batch), (others, expected) in zip(ours, theirs):
        assert indices == others and (batch - expected).abs().max() <= 4 / 255
    assert ours.stats.items == len(items) and ours.stats.fallbacks == 1


@needs_dali
def test_text_is_not_for_dali():
    with pytest.raises(ConfigError, match="text"):
        dali.DaliEngine(TextSpec())
    assert make_engine(TextSpec(), "cpu", "dali").name == "cpu"


def test_said_when_it_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    availability._available.cache_clear()
    try:
        assert "pip install 'mmcl-fast[dali]'" in dali.available()
        with pytest.raises(ConfigError, match="dali.*pip install"):
            loader([], plain(), backend="dali")
        with pytest.raises(ConfigError, match="dali.*pip install"):
            dali.DaliEngine(plain())
    finally:
        availability._available.cache_clear()
    assert "no device 'mps'" in dali.available("mps")


@needs_dali
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said():
    assert "torch finds no GPU" in dali.available(CUDA)


@pytest.mark.gpu
@needs_dali
@pytest.mark.parametrize("modality, limit", [("image", 4), ("video", 8), ("audio", 0.3), ("depth", 0.3)])
def test_on_a_gpu(media, modality, limit):
    """nvJPEG and NVDEC round otherwise: images and video by their mean difference."""
    spec = plain(modality, 48, frames=4 if modality == "video" else 1)
    for view in VIEWS:
        ours, theirs = run_both(media[modality], spec, view, device=CUDA)
        assert all(chunk.data.is_cuda for chunk in ours)
        found = differences(ours, theirs)
        assert (found.mean((1, 2, 3, 4)) if modality in ("image", "video") else found).max() <= limit
    assert sum(chunk.fallback for chunk in ours) == {"image": 1, "video": 0, "audio": 2, "depth": 1}[modality]


@pytest.mark.gpu
@needs_dali
@pytest.mark.parametrize("name, codec", [("a.mp4", "libx264"), ("a.mkv", "libx265"), ("a.webm", "libvpx-vp9")])
def test_the_frames_wanted_on_a_gpu(tmp_path, name, codec):
    items = [Item("video", counting_video(tmp_path / name, 40, codec, size=320))]
    (chunk,) = dali.DaliEngine(plain("video", 80, frames=8), device=CUDA).run(items, [[0]])
    assert numbers(chunk.data[0].cpu()) == [int((i + 0.5) * 5) for i in range(8)] and chunk.fallback == 0


@pytest.mark.gpu
@needs_dali
def test_auto_takes_dali_and_bad_files_are_named_on_a_gpu(tmp_path):
    items = scenes(tmp_path, 6)
    broken(items[2].path)
    batches = loader(items, plain(size=40), CUDA, batch_size=4, on_error="skip")
    assert batches.engine.name == "dali"
    assert [indices for indices, _ in batches] == [[0, 1, 3], [4, 5]]
    assert "02.png" in str(batches.faults[0][1])
