"""Workers decode as this process does, and a file that kills a worker loses only its own result."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmcl_fast import media, plugins
from mmcl_fast.errors import ConfigError, MediaError
from mmcl_fast.media.engines import isolation
from mmcl_fast.media.engines.isolation import DecodeLimits, DecoderDied, Job, Pool, landlock, process, seccomp
from mmcl_fast.media.registry import REGISTRY
from mmcl_fast.media.source import Slice
from mmcl_fast.media.spec import adjust
from tests.media.originals import originals
from tests.media.trial import spec_of

PLANTED = str(Path(__file__).with_name("planted.py"))
LIMITS = DecodeLimits(max_decode_mb=300, max_decode_seconds=1, max_decode_wait=6)

if isolation.unavailable():
    pytest.skip(f"isolation: {isolation.unavailable()}", allow_module_level=True)


@pytest.fixture(scope="module")
def planted() -> Iterator[None]:
    """Register the modality ``planted`` here and in the workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "_server", None)
        patch.setenv(plugins.ENVIRONMENT_VARIABLE, PLANTED)
        patch.setenv("MMCL_SECRET", "word")
        plugins.load()
        yield
        assert process._server is not None
        process._server.close()
        sys.modules.pop("planted", None)
        REGISTRY.unregister("planted")


@pytest.fixture
def pool(planted: None) -> Iterator[Pool]:
    with Pool(2, LIMITS) as pool:
        yield pool


def planted_spec() -> media.VisualSpec:
    """Return a spec of the registered modality."""
    return media.VisualSpec(modality="planted", size=8, mean=(0, 0, 0), std=(1, 1, 1))


def grey(pool: Pool, text: str) -> float:
    """Return the grey to which a file with ``text`` is decoded."""
    data = pool.decode(text.encode(), "planted", planted_spec())
    assert isinstance(data, torch.Tensor) and data.unique().numel() == 1
    return round(float(data.flatten()[0]), 3)


def running_children() -> set[int]:
    """Return the child processes that are no zombies."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
            parents[int(status.parent.name)] = 0 if state == "Z" else int(parent)
    found, new = set[int](), {os.getpid()}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= new
    return found


@pytest.mark.parametrize("file", originals(), ids=lambda file: file.name)
def test_workers_decode_as_this_process_does(file, tmp_path: Path, shared_pool: Pool) -> None:
    """Results are equal to the bit for files, bytes, slices and views; the modality found is the same, too."""
    wanted, name = spec_of(file.modality), tmp_path / f"a{file.suffix}"
    name.write_bytes(file.data)
    (tmp_path / "b.tar").write_bytes(b"before" + file.data + b"behind")
    part = Slice(str(tmp_path / "b.tar"), 6, len(file.data), file.name)
    for source in (name, str(name), file.data, part):
        assert shared_pool.sniff(source) == media.sniff(source) == file.modality
        shared_pool.check(source, file.modality, wanted)
        for view in (0, 3):
            ours = media.decode(source, file.modality, wanted, view=view, seed=1)
            theirs = shared_pool.decode(source, file.modality, wanted, view=view, seed=1)
            assert type(ours) is type(theirs)
            if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
                assert torch.equal(ours, theirs)
            else:
                assert ours == theirs


@pytest.fixture(scope="module")
def shared_pool() -> Iterator[Pool]:
    with Pool(1) as pool:
        yield pool


def test_errors_are_those_of_this_process(tmp_path: Path, shared_pool: Pool) -> None:
    files = {
        "empty.png": b"",
        "text.png": b"no picture",
        "cut.wav": b"RIFF\x24\x00\x00\x00WAVE",
        "nan.npy": b"\x93NUMPY",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    sources = [tmp_path / name for name in (*files, "gone.png", "pipe.png", "loop.png", "a\n\udcff.png", "\0")]
    small = media.VisualSpec(max_bytes=5)
    for source in [*sources, tmp_path, b"", b"\xff\xd8\xff"]:
        for modality, wanted in (("image", None), ("audio", None), ("video", None), ("depth", None), ("image", small)):
            for do in ("check", "decode"):
                with pytest.raises(MediaError) as ours:
                    getattr(media, do)(source, modality, wanted)
                with pytest.raises(MediaError) as theirs:
                    getattr(shared_pool, do)(source, modality, wanted)
                assert str(ours.value) == str(theirs.value)
        assert modality_or_reason(media.sniff, source) == modality_or_reason(shared_pool.sniff, source)


def modality_or_reason(sniff: Callable[[Any], str], source: Any) -> str:
    """Return the modality, or the reason why there is none."""
    try:
        return sniff(source)
    except MediaError as error:
        return str(error)


def test_a_worker_keeps_its_shape_of_planes_and_grows(tmp_path: Path, shared_pool: Pool) -> None:
    file = next(f for f in originals() if f.modality == "image")
    for size in (8, 64, 300, 16):
        wanted = media.VisualSpec(size=size)
        out = torch.full((3, 1, 3, size, size), 7.0)
        assert shared_pool.decode(file.data, "image", wanted, out=out[1]) is not None
        assert torch.equal(out[1], media.decode(file.data, "image", wanted))
        assert (out[0] == 7).all() and (out[2] == 7).all()


def test_many_at_once_come_back_in_their_places(shared_pool: Pool) -> None:
    jobs = []
    for number, file in enumerate(originals() * 2):
        specs = {modality: spec_of(modality) for modality in ("image", "video", "audio", "depth", "text")}
        if number % 7 == 0:
            del specs[file.modality]
        jobs.append(Job(file.data, None if number % 2 else file.modality, specs, check_only=number % 5 == 0))
    told = [job for job in jobs if job.modality in (None, *job.specs)]  # otherwise there is no spec
    for ours, theirs in zip(isolation.InProcessDecoders().run(told), shared_pool.run(told), strict=True):
        assert (ours.modality, ours.error, type(ours.data)) == (theirs.modality, theirs.error, type(theirs.data))
        if isinstance(ours.data, torch.Tensor) and isinstance(theirs.data, torch.Tensor):
            assert torch.equal(ours.data, theirs.data)
        else:
            assert ours.data == theirs.data


@pytest.mark.parametrize(
    ("text", "reason", "line"),
    [
        ("abort", "signal", "the decoder died (SIGABRT) on this file: convert it or leave it out"),
        ("crash", "signal", "the decoder died (SIGSEGV) on this file: convert it or leave it out"),
        ("exit 3", "exit", "the decoder died (exit code 3) on this file: convert it or leave it out"),
        ("exit 0", "exit", "the decoder died (exit code 0) on this file: convert it or leave it out"),
        ("spin", "cpu", "took more than 1 s of processor time on this file"),
        ("sleep", "wall", "took more than 6 s on this file: convert it, leave it out or raise max_decode_wait"),
        (
            "eat",
            "memory",
            "needed more than 300 MB of memory on this file: convert it, leave it out or raise max_decode_mb",
        ),
    ],
)
def test_a_file_that_ends_its_worker_costs_its_own_answer(pool: Pool, text: str, reason: str, line: str) -> None:
    told: list[str] = []
    pool._died = told.append
    assert grey(pool, "250") == 0.25
    with pytest.raises(DecoderDied) as fault:
        pool.decode(text.encode(), "planted", planted_spec())
    assert str(fault.value).startswith(f"<{len(text)} bytes>: ") and line in str(fault.value)
    assert fault.value.reason == reason and set(told) == {reason} == set(pool.deaths)
    # A worker that had answered before may have been broken by an earlier file: a new one was tried.
    assert pool.deaths[reason] == len(told) == (2 if reason in ("signal", "exit", "memory") else 1)
    with pytest.raises(DecoderDied):
        pool.check(text.encode(), "planted", planted_spec())
    assert grey(pool, "500") == 0.5


def test_a_killer_among_others_is_the_one_that_is_named(pool: Pool) -> None:
    texts = ["100", "abort", "200", "sleep", "eat", "300", "spin", "400", "exit 1", "x" * 9, *map(str, range(500, 530))]
    outcomes = pool.run([Job(text.encode(), "planted", {"planted": planted_spec()}) for text in texts])
    for text, outcome in zip(texts, outcomes, strict=True):
        if text.isdigit():
            assert outcome.error is None
            assert isinstance(outcome.data, torch.Tensor)
            assert torch.allclose(outcome.data, torch.tensor(int(text) / 1000))
        elif text[0] != "x":
            assert isinstance(outcome.error, DecoderDied) and outcome.data is None
    assert set(pool.deaths) == {"signal", "wall", "memory", "cpu", "exit"}


def test_many_more_files_than_descriptors(pool: Pool, tmp_path: Path) -> None:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    (tmp_path / "a").write_text("250")
    (tmp_path / "b").write_text("abort")
    names = ["a"] * min(3 * soft, 6000)
    names[777] = names[778] = "b"
    jobs = [Job(tmp_path / name, "planted", {"planted": planted_spec()}, check_only=True) for name in names]
    outcomes = pool.run(jobs)
    assert [i for i, outcome in enumerate(outcomes) if outcome.error is not None] == [777, 778]
    assert all(outcome.modality == "planted" for outcome in outcomes)


def test_a_file_may_take_long_one_after_another(pool: Pool) -> None:
    """Processor time is counted for each file, not for the life of the worker."""
    outcomes = pool.run([Job(b"cpu 0.6", "planted", {"planted": planted_spec()}) for _ in range(4)])
    assert [outcome.error for outcome in outcomes] == [None] * 4 and not pool.deaths


@pytest.mark.skipif(sys.platform != "linux", reason="said to be forbidden on Linux only")
def test_what_a_worker_may_not_do(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "private").write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        tried = {
            "files": [f"open {tmp_path / 'private'}", "open /etc/hostname", "open /proc/self/mem"],
            "network": [f"network {port}"],
            "processes": ["fork", "program", f"signal {os.getppid()}", f"signal {os.getpid()}", "signal -1"],
        }
        assert grey(pool, "0") == 0
        (worker, *_) = pool._alive
        assert worker.forbidden == ["files"] * bool(landlock.version()) + ["network", "processes"] * seccomp.available()
        for what in worker.forbidden:
            for text in tried[what]:
                assert grey(pool, text) == 0.1, text
    if worker.forbidden:
        for text in (f"write {tmp_path / 'new'}", f"write {tmp_path / 'private'}", f"remove {tmp_path / 'private'}"):
            assert grey(pool, text) == 0.1, text
        assert grey(pool, f"mode {tmp_path / 'private'}") == 0.1 or "processes" not in worker.forbidden
    assert grey(pool, "secret MMCL_SECRET") == 0.1
    assert (tmp_path / "private").read_text() == "secret" and [f.name for f in tmp_path.iterdir()] == ["private"]


def test_the_filter_knows_both_processors() -> None:
    for machine in seccomp.PROCESSORS:
        program = seccomp.make_filter(77, machine)
        assert len(program) % 8 == 0 and len(program) // 8 < 4096
        assert program.endswith((6).to_bytes(2, "little") + b"\0\0" + seccomp.ALLOW.to_bytes(4, "little"))


def test_no_process_stays_behind(planted: None) -> None:
    before = running_children()
    with Pool(3, LIMITS) as pool:
        for text in ("1", "abort", "exit 1", "2"):
            pool.run([Job(text.encode(), "planted", {"planted": planted_spec()})])
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(lambda i: grey(pool, str(i)), range(30)))
        assert 1 <= pool.alive <= 3
    assert pool.alive == 0
    left = running_children() - before - {process.fork_server().process.pid}
    assert not left


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_the_process_that_asks(number: int, tmp_path: Path) -> None:
    program = (
        "import threading, time\n"
        "from mmcl_fast import media; from mmcl_fast import plugins\n"
        f"plugins.load([{PLANTED!r}])\n"
        "from mmcl_fast.media.engines.isolation import Pool; from mmcl_fast.media.engines.isolation import process\n"
        "pool = Pool(2)\n"
        "wanted = media.VisualSpec(modality='planted')\n"
        "pool.decode(b'1', 'planted', wanted)\n"
        "threading.Thread(target=lambda: pool.decode(b'sleep', 'planted', wanted), daemon=True).start()\n"
        "while pool.alive < 1 or pool._slots.qsize() > 1: time.sleep(0.01)\n"
        "print(process.fork_server().process.pid, *[w.process for w in pool._alive], flush=True)\n"
        "time.sleep(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        found = list(map(int, parent.stdout.readline().split()))
        assert len(found) == 2
        parent.send_signal(number)
        try:
            parent.wait(30)
        finally:
            parent.kill()
    until = time.monotonic() + 20
    while time.monotonic() < until and any(map(_lives, found)):
        time.sleep(0.02)
    assert [child for child in found if _lives(child)] == []


def _lives(child: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_process_that_starts_workers_may_be_killed(pool: Pool) -> None:
    assert grey(pool, "100") == 0.1
    before = process.fork_server()
    os.kill(before.process.pid, signal.SIGKILL)
    before.process.wait(30)
    assert grey(pool, "200") == 0.2
    assert process.fork_server() is not before and not pool.deaths


def test_closing_ends_who_waits(planted: None) -> None:
    pool = Pool(1)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pool.decode, b"sleep", "planted", planted_spec())
        while not pool.alive or pool._slots.qsize():
            time.sleep(0.01)
        pool.close()
        with pytest.raises(MediaError, match="stopped before it was decoded"):
            waiting.result(30)
    with pytest.raises(MediaError, match="stopped before it was decoded"):
        pool.decode(b"1", "planted", planted_spec())


def test_an_own_reader_that_workers_do_not_know_is_called_here(pool: Pool) -> None:
    assert pool.workers_know("planted")
    before = REGISTRY.reader("planted")
    try:
        REGISTRY.register("planted", local_reader)
        assert not pool.workers_know("planted")
        picture = next(file for file in originals() if file.modality == "image")
        (outcome,) = pool.run([Job(picture.data, None, {"planted": planted_spec(), "image": spec_of("image")})])
        assert outcome.modality == "image" and outcome.data is not None
        data = pool.decode(b"not a number", "planted", planted_spec())
        assert isinstance(data, torch.Tensor) and torch.allclose(data, torch.tensor(os.getpid() % 100 / 100))
    finally:
        REGISTRY.register("planted", before)


def local_reader(file) -> np.ndarray:
    return np.full((8, 8), os.getpid() % 100 / 100)


def test_a_fault_in_a_use_file_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise ValueError('not today')\n")
    monkeypatch.setattr(process, "_server", None)
    monkeypatch.setenv(plugins.ENVIRONMENT_VARIABLE, str(tmp_path / "broken.py"))
    with Pool(1) as pool, pytest.raises(isolation.IsolationError, match=r"not today.*media.isolate = false"):
        pool.check(b"x", "image")
    process.fork_server().close()


def test_settings_choose_workers_and_their_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"isolate": True, "max_decode_mb": 10, "max_decode_seconds": 3, "max_decode_wait": 4.5, "max_pixels": 9}
    for given, limits in ((settings, DecodeLimits(10.0, 3.0, 4.5)), ({}, DecodeLimits()), (None, DecodeLimits())):
        chosen = isolation.open_decoders(given, 1)
        assert isinstance(chosen, Pool) and chosen.limits == limits
        chosen.close()
    assert isinstance(isolation.open_decoders({"isolate": False}, 1), isolation.InProcessDecoders)
    assert "isolate" not in adjust(media.VisualSpec(), settings).to_dict()
    for name in ("max_decode_mb", "max_decode_seconds", "max_decode_wait"):
        with pytest.raises(ConfigError, match=name):
            DecodeLimits(**{name: 0})
    monkeypatch.setenv("MMCL_FAST_ISOLATE", "0")
    assert isinstance(isolation.open_decoders(settings, 1), isolation.InProcessDecoders)
    monkeypatch.setenv("MMCL_FAST_ISOLATE", "1")
    assert isolation.uses_workers({"isolate": False})
    monkeypatch.setenv("MMCL_FAST_ISOLATE", "no")
    with pytest.raises(ConfigError, match="MMCL_FAST_ISOLATE = 'no': set it to 0 or 1"):
        isolation.uses_workers(settings)


def test_a_large_picture_fits_into_the_memory_of_a_worker(tmp_path: Path, shared_pool: Pool) -> None:
    """The largest image that max_pixels accepts fits; 16 bits a pixel need the most memory."""
    from PIL import Image

    Image.fromarray(np.full((10_000, 10_000), 9000, np.uint16)).save(tmp_path / "a.png", compress_level=1)
    data = shared_pool.decode(tmp_path / "a.png", "depth")
    assert isinstance(data, torch.Tensor) and data.shape == (1, 3, 224, 224)
