"""Hostile bodies and headers cause no server error, no crash and no leak, and answers stay right afterwards."""

from __future__ import annotations

import random
import signal
from collections import Counter
from pathlib import Path

from mmcl_fast.learning import Learner
from tests.serve.calls import BOUNDARY, FORM, ask, form, read_counters, read_resources, send_raw, serve_process

COUNT = 700
KINDS = ("image", "image-png", "video", "audio", "depth", "depth-npy", "text")
HUGE = ("9" * 400, "-1", "1e9", "0x10", "NaN", "18446744073709551616", "2147483648", "%D9%A3", "%00", "")
HEADERS = (
    "Content-Length: {n}",
    "Content-Length: 5\r\nContent-Length: 6",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 3",
    "Expect: 100-continue\r\nContent-Length: 4",
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13",
    "Content-Encoding: deflate\r\nContent-Length: 4",
    f"Content-Type: {FORM}; boundary=other\r\nContent-Length: 9",
    "Content-Type: multipart/form-data; boundary=" + "b" * 5000 + "\r\nContent-Length: 4",
    'Content-Type: multipart/form-data; boundary="\r\nContent-Length: 4',
    "Content-Type: text/plain; charset=utf-7\r\nContent-Length: 4",
    "Range: bytes=0-99999999999999999999",
    "Cookie: " + "a=b; " * 3000,
    "X" * 3000 + ": y",
    ": nothing",
    "Host: \x00\x01",
    " folded: a",
)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return the data cut short, or with bytes changed, doubled or inserted."""
    out = bytearray(data)
    kind = rng.choice(["cut", "cut", "head", "bits", "bits", "noise", "zeros", "twice"])
    at = rng.randrange(len(out))
    if kind == "cut":
        del out[at:]
    elif kind == "head":
        del out[rng.randrange(1, 64) :]
    elif kind == "bits":
        for _ in range(rng.choice([1, 8, 200])):
            out[rng.randrange(min(len(out), rng.choice([64, 10**9])))] ^= 1 << rng.randrange(8)
    elif kind == "twice":
        out += bytes(out)
    else:
        length = rng.randrange(1, 400)
        out[at : at + length] = bytes(length) if kind == "zeros" else rng.randbytes(length)
    return bytes(out)


def make_path(rng: random.Random) -> str:
    known = ("image", "video", "audio", "depth", "text")
    modality = rng.choice([*[""] * 9, *(f"modality={m}" for m in (*known, "%ff%00"))])
    top = rng.choice([*[""] * 9, "top_k=3", f"top_k={rng.choice(HUGE)}"])
    return "/predict?" + "&".join(part for part in (modality, top) if part)


def make_form(media: dict[str, bytes], rng: random.Random) -> bytes:
    parts = [
        rng.choice(
            [
                ("file", rng.choice(["a", "../../x", "é\x7f", "n" * 3000]), damaged(media[rng.choice(KINDS)], rng)),
                ("file", "a", damaged(media[rng.choice(KINDS)], rng) * rng.choice([1, 1, 1, 30])),
                ("text", None, rng.randbytes(rng.randrange(200))),
                ("text", None, b"word10\nword11"),
                (rng.choice(["text", "text", "text", "modality", "\\", "%0a"]), None, b"x"),
            ]
        )
        for _ in range(rng.randrange(5))
    ]
    body = form(*parts)
    return rng.choice([body, body, damaged(body, rng), body.replace(BOUNDARY.encode(), b"other", 1)])


def make_message(media: dict[str, bytes], rng: random.Random) -> bytes:
    """Return bytes to send over a socket."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randbytes(rng.randrange(2000)) + b"\r\n\r\n"
    lines = [rng.choice(HEADERS).format(n=rng.choice([*HUGE, "5"])) for _ in range(rng.randrange(1, 4))]
    first = rng.choice(
        [
            *["POST /predict HTTP/1.1"] * 6,
            "GET / HTTP/1.0",
            "GET /metrics HTTP/1.1",
            "PRI * HTTP/2.0",
            "CONNECT here:80 HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "POST http://there/predict HTTP/1.1",
            "GET /" + "a" * rng.choice([10, 60_000]) + " HTTP/1.1",
            "GET /%2e%2e/%00%ff HTTP/1.1",
            "DELETE /predict HTTP/9.9",
            "\x16\x03\x01",
        ]
    )
    head = "\r\n".join([first, "Host: here", *lines, "", ""]).encode("latin-1", "replace")
    body = rng.choice(
        [b"", b"abcd", b"4\r\nabcd\r\n0\r\n\r\n", b"fffffffffffffffff\r\n", b"4\r\nab", make_form(media, rng)]
    )
    message = head + body
    return message if kind < 3 else damaged(message, rng)


def test_hostile_requests_do_no_harm(place: Path, learner: Learner, media: dict[str, Path], tmp_path: Path) -> None:
    rng, bodies = random.Random(0), {kind: media[kind].read_bytes() for kind in KINDS}
    statuses: Counter[int | None] = Counter()
    with serve_process(place / "run", tmp_path / "log", "--max-bytes", "100kB") as (process, port):
        before = (0, 0, 0)
        for number in range(COUNT):
            if number == 200:  # by now all lazily loaded libraries are loaded
                before = read_resources(process.pid)
            kind = rng.randrange(5)
            if kind < 2:
                body = damaged(bodies[rng.choice(KINDS)], rng) if kind else rng.randbytes(rng.randrange(3000))
                content_type = rng.choice(["", "", "", "text/plain", "image/png", "é", FORM, "multipart/form-data"])
                answer = ask(port, make_path(rng), body, content_type=content_type.encode().decode("latin-1"))
                assert answer.value  # JSON, also for a refused request
                statuses[answer.status] += 1
            elif kind < 4:
                answer = ask(port, make_path(rng), make_form(bodies, rng), content_type=FORM)
                assert answer.value  # JSON, also for a refused request
                statuses[answer.status] += 1
            else:
                answered = send_raw(port, make_message(bodies, rng), end=True)
                statuses[int(answered.split()[1]) if answered.startswith(b"HTTP/1.1 ") else None] += 1
            assert process.poll() is None, f"request {number} ended the server"
        after = read_resources(process.pid)
        assert all(status is None or status < 500 for status in statuses), statuses
        assert {200, 400, 413, 415, 422} <= set(statuses), statuses  # the fuzzing reaches each kind of answer
        descriptors, threads, resident = (a - b for a, b in zip(after, before))
        assert descriptors <= 2 and threads <= 0 and resident < 60e6, (before, after)
        found = read_counters(port)
        assert found["mmcl_fast_requests_in_flight{}"] == 0
        for name in KINDS:
            (item,) = ask(port, body=bodies[name]).value["items"]
            want = learner.predict([media[name]])[0]
            assert [label["class"] for label in item["labels"]] == [name for _, name in want.labels]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log and "Exception" not in log
