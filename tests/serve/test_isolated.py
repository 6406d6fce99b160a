"""Uploads that abort, spin, sleep and allocate cost their own answers, and no other request notices."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from mmcl_fast import plugins
from mmcl_fast.learning import Learner
from mmcl_fast.media.engines import isolation
from mmcl_fast.serve import Limits
from tests.media.engines.test_isolation import PLANTED, running_children
from tests.serve.calls import FORM, ask, form, read_counters, read_resources, serve_in_thread, serve_process

CLIENTS, GOOD, BAD = 50, 2000, 200
# Content of a bad item -> (the reason that /metrics counts, the error line).
KINDS = {
    "abort": ("signal", "the decoder died (SIGABRT) on this file: convert it or leave it out"),
    "crash": ("signal", "the decoder died (SIGSEGV) on this file: convert it or leave it out"),
    "exit 7": ("exit", "the decoder died (exit code 7) on this file: convert it or leave it out"),
    "eat": ("memory", "the decoder needed more than 300 MB of memory on this file"),
    "spin": ("cpu", "the decoder took more than 1 s of processor time on this file"),
    "sleep": ("wall", "the decoder took more than 5 s on this file"),
}
SLOW_KINDS = ("spin", "sleep")  # each runs into its time limit, so there are few of them
LIMITS = ("--max-decode-mb", 300, "--max-decode-seconds", 1, "--max-decode-wait", 5, "--max-concurrent", 200)

if isolation.unavailable():
    pytest.skip(f"isolation: {isolation.unavailable()}", allow_module_level=True)


def bad_items(rng: random.Random) -> list[str]:
    quick = [kind for kind in KINDS if kind not in SLOW_KINDS]
    some = [*SLOW_KINDS] * 4
    return rng.sample(some + [quick[i % len(quick)] for i in range(BAD - len(some))], BAD)


async def call(port: int, path: str, body: bytes) -> tuple[int, dict]:
    """Send one request on its own connection; return the status and the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.read()
    writer.close()
    return int(answer.split(b" ", 2)[1]), json.loads(answer.partition(b"\r\n\r\n")[2])


async def under_load(port: int, work: list[tuple[str, bytes]]) -> list[tuple[int, dict]]:
    """Return the answers to (path, body) in their order; ``CLIENTS`` clients send the requests."""
    left = iter(enumerate(work))
    found: list[tuple[int, dict]] = [(0, {})] * len(work)

    async def client() -> None:
        for number, (path, body) in left:
            found[number] = await call(port, path, body)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return found


def test_bad_items_among_good_ones(place: Path, media: dict[str, Path], tmp_path: Path, monkeypatch) -> None:
    rng = random.Random(0)
    monkeypatch.setenv(plugins.ENVIRONMENT_VARIABLE, PLANTED)
    good = {name: media[name].read_bytes() for name in ("image", "image-png", "depth-npy", "text")}
    bad = bad_items(rng)
    with serve_process(place / "run", tmp_path / "log", *LIMITS) as (process, port):
        want = {name: ask(port, body=body).value["items"][0]["labels"][0] for name, body in good.items()}
        for body in ("abort", "eat"):  # by now all that a death makes the server load is loaded
            assert ask(port, "/predict?modality=planted", body.encode()).status == 422
        for name in ("image", "text") * 30:
            ask(port, body=good[name])
        before = read_resources(process.pid)
        names = [rng.choice(list(good)) for _ in range(GOOD)]
        work = [("/predict", good[name]) for name in names] + [("/predict?modality=planted", b.encode()) for b in bad]
        order = rng.sample(range(len(work)), len(work))
        answers = dict(zip(order, asyncio.run(under_load(port, [work[i] for i in order])), strict=True))
        for i, name in enumerate(names):
            status, answer = answers[i]
            assert status == 200, answer
            label = answer["items"][0]["labels"][0]
            assert label["class"] == want[name]["class"]
            assert label["probability"] == pytest.approx(want[name]["probability"], abs=1e-3)
        for i, kind in enumerate(bad, GOOD):
            status, answer = answers[i]
            assert status == 422 and KINDS[kind][1] in answer["error"], (kind, answer)
            assert answer["error"].startswith("body: ") and answer["items"][0]["labels"] == []
        found = read_counters(port)
        dead = Counter(
            {reason: found[f"mmcl_fast_decoders_died_total{{reason={reason}}}"] for reason in isolation.REASONS}
        )
        expected = Counter(KINDS[kind][0] for kind in [*bad, "abort", "eat"])
        for reason, count in expected.items():  # a death that may not be the file's fault is tried once more
            most = count if reason in ("cpu", "wall") else 2 * count
            assert count <= dead[reason] <= most, (reason, dead, expected)
        assert found["mmcl_fast_decoders{}"] >= 1 and found["mmcl_fast_requests_in_flight{}"] == 0
        for _ in range(100):  # connections close a little after their answers
            after = read_resources(process.pid)
            descriptors, threads, resident = (a - b for a, b in zip(after, before))
            if descriptors <= 4:
                break
            time.sleep(0.1)
        assert descriptors <= 4 and threads <= 0 and resident < 60e6, (before, after)
        below = children(process.pid)
        assert len(below) <= 1 + len(os.sched_getaffinity(0))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert not [child for child in below if Path(f"/proc/{child}").exists()]
    assert (tmp_path / "log").read_text() == ""


def children(parent: int) -> list[int]:
    """Return the processes that one has started, and theirs in turn, without zombies."""
    found = []
    for child in running_children():
        status = Path(f"/proc/{child}/status")
        if status.exists() and f"PPid:\t{parent}\n" in status.read_text() and "State:\tZ" not in status.read_text():
            found += [child, *children(child)]
    return found


def test_an_item_of_several_has_its_line(learner: Learner, media: dict[str, Path], monkeypatch) -> None:
    """A worker recognises files, too."""
    from mmcl_fast.media.engines.isolation import fork_server, process

    monkeypatch.setenv(plugins.ENVIRONMENT_VARIABLE, str(Path(__file__).with_name("planted_sniffer.py")))
    monkeypatch.setattr(process, "_server", None)
    with serve_in_thread(learner, Limits()) as port:
        picture, line = ("file", "a.jpg", media["image"].read_bytes()), ("text", None, b"x")
        answer = ask(port, body=form(picture, ("file", "b.bin", b"planted abort"), line), content_type=FORM)
        assert answer.status == 200
        first, second, third = answer.value["items"]
        assert (first["error"], second["modality"], third["error"]) == (None, None, None)
        assert second["error"] == "b.bin: the decoder died (SIGABRT) on this file: convert it or leave it out"
        alone = ask(port, body=b"planted abort")
        assert alone.status == 422 and alone.value["error"].startswith("body: the decoder died (SIGABRT)")
    fork_server().close()


def test_without_isolation_the_server_decodes(learner: Learner, media: dict[str, Path], monkeypatch) -> None:
    monkeypatch.setenv("MMCL_FAST_ISOLATE", "0")
    with serve_in_thread(learner) as port:
        body = media["image"].read_bytes()
        own = ask(port, body=body).value
        assert read_counters(port)["mmcl_fast_decoders{}"] == 0
    monkeypatch.setenv("MMCL_FAST_ISOLATE", "1")
    with serve_in_thread(learner) as port:
        assert ask(port, body=body).value == own
        assert read_counters(port)["mmcl_fast_decoders{}"] >= 1
