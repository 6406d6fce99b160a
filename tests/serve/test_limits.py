"""Refused requests get one line with the reason; slow and greedy clients are disconnected."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmcl_fast.learning import Learner
from mmcl_fast.serve import Limits
from tests.serve.calls import BOUNDARY, FORM, ask, form, read_counters, send_raw, serve_in_thread

LIMITS = Limits(max_bytes=100_000, max_items=5, max_concurrent=2, header_seconds=1.0, body_seconds=1.0)


@pytest.fixture(scope="module")
def port(learner: Learner) -> Iterator[int]:
    with serve_in_thread(learner, LIMITS) as port:
        yield port


def head(*lines: str) -> bytes:
    return "\r\n".join(["POST /predict HTTP/1.1", "Host: here", *lines, "", ""]).encode()


def status_and_error(answer: bytes) -> tuple[int, str]:
    """Return the status and the error line of an answer."""
    first, _, rest = answer.partition(b"\r\n")
    error = json.loads(rest.partition(b"\r\n\r\n")[2])["error"]
    assert "\n" not in error
    return int(first.split()[1]), error


def test_a_length_over_the_limit_is_refused_before_the_body_is_sent(port: int) -> None:
    before = read_counters(port)["mmcl_fast_received_bytes_total{}"]
    status, error = status_and_error(send_raw(port, head("Content-Length: 100001")))
    assert status == 413 and "100000 bytes" in error
    assert read_counters(port)["mmcl_fast_received_bytes_total{}"] == before


def test_a_body_without_a_length_is_read_up_to_the_limit(port: int) -> None:
    chunk = b"2710\r\n" + b"x" * 10_000 + b"\r\n"
    status, _ = status_and_error(send_raw(port, head("Transfer-Encoding: chunked") + 12 * chunk))
    assert status == 413
    before = read_counters(port)["mmcl_fast_received_bytes_total{}"]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(head("Transfer-Encoding: chunked"))
        with pytest.raises(ConnectionError):  # the server closes a connection that never ends
            for _ in range(100_000):
                sock.sendall(chunk)
    most = 2 * (LIMITS.max_bytes + 2**18)  # kept, then dropped; bytes arrive in pieces of up to 256 KiB
    assert read_counters(port)["mmcl_fast_received_bytes_total{}"] - before <= most


def test_a_client_that_reads_only_after_sending_gets_the_answer(port: int) -> None:
    answer = ask(port, body=bytes(190_000))
    assert answer.status == 413 and answer.headers["connection"] == "close"


def test_slow_clients_are_disconnected(port: int) -> None:
    start = time.monotonic()
    status, error = status_and_error(send_raw(port, head("Content-Length: 10") + b"abc", 20))
    assert status == 408 and "within 1 s" in error
    for begun in (b"", b"POST /pre", head("Content-Length: 3")[:-2]):
        assert send_raw(port, begun, 20) == b""
    # Answered, but the body never comes.
    send_raw(port, b"GET / HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\n", 20)
    assert time.monotonic() - start < 40
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock, pytest.raises(ConnectionError):
        for byte in head("X: " + 300 * "y"):  # a byte now and then does not keep the connection open
            sock.sendall(bytes([byte]))
            time.sleep(0.05)
    assert ask(port, "/healthz").status == 200


def test_requests_beyond_the_limit_get_503(port: int, media: dict[str, Path]) -> None:
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
    for sock in held:
        sock.sendall(head("Content-Length: 10") + b"abc")
    while read_counters(port)["mmcl_fast_requests_in_flight{}"] < 2:
        time.sleep(0.01)
    answer = ask(port, body=b"some text")
    assert answer.status == 503 and answer.headers["retry-after"] == "1" and "try again" in answer.value["error"]
    assert ask(port, "/healthz").status == 200
    for sock in held:
        sock.close()
    while read_counters(port)["mmcl_fast_requests_in_flight{}"]:
        time.sleep(0.01)
    assert ask(port, body=b"some text").status == 200
    assert read_counters(port)["mmcl_fast_requests_total{path=/predict,status=499}"] == 2


WRONG = [
    ("/predict", b"", "", 400, "nothing in the body"),
    ("/predict", form(), FORM, 400, "nothing in the body"),
    ("/predict", form(("text", None, b" \n\n ")), FORM, 400, "nothing in the body"),
    ("/predict", form(("file", "a.txt", b"a"))[:-8], FORM, 400, "last boundary"),
    ("/predict", form(("file", "a.txt", b"a")).replace(b"\r\n\r\na", b"\r\nb\r\na"), FORM, 400, "not multipart"),
    ("/predict", form(("file", "a.txt", b"a")).replace(b"name=", b"game="), FORM, 400, "no name"),
    ("/predict", form(("file", "a.txt", b"a")), "multipart/form-data", 400, "without the boundary"),
    ("/predict", form(("file", "a.txt", b"a")), "multipart/form-data; boundary=other", 400, "boundary"),
    ("/predict", form(("file", "a.txt", b"a")), f"multipart/mixed; boundary={BOUNDARY}", 415, "form-data"),
    ("/predict", form(*[("file", "a.txt", b"a")] * 6), FORM, 413, "more than 5 items"),
    ("/predict", form(("text", None, b"line\n" * 6)), FORM, 413, "more than 5 items"),
    ("/predict", form(*[("file", "", b"")] * 50), FORM, 413, "more than 5 items"),
    ("/predict", b'{"text": ', "application/json", 400, "not JSON"),
    ("/predict", b"[" * 100_000, "application/json", 400, "not JSON"),
    ("/predict", b'["a bird"]', "application/json", 400, "key 'text'"),
    ("/predict", b'{"text": 3}', "application/json", 400, "a string or a list"),
    ("/predict", b'{"text": []}', "application/json", 400, "nothing in the body"),
    ("/predict", b'{"text": "a", "top_k": 3}', "application/json", 400, "'top_k': unknown"),
    ("/predict?modality=image", b'{"text": "a"}', "application/json", 400, "holds texts"),
    ("/predict", b'{"text": ["a", "a", "a", "a", "a", "a"]}', "application/json", 413, "more than 5 items"),
    ("/predict", b"<p>a bird</p>", "text/html", 415, "text/plain"),
    ("/predict", b"<p>a bird</p>", "application/xml", 415, "text/plain"),
    ("/predict", b"a bird", "text/plain; charset=klingon", 415, "klingon"),
    ("/predict", b"a bird", "text/plain; charset=zip", 415, "zip"),
    ("/predict", b"a bird\xff", "text/plain; charset=utf-16", 400, "not in the charset"),
    ("/predict?modality=imag", b"a", "", 400, "did you mean 'image'"),
    ("/predict?top_k=0", b"a", "", 400, "whole number"),
    ("/predict?top_k=" + 99 * "9", b"a", "", 400, "whole number"),
    ("/predict?topk=1", b"a", "", 400, "did you mean 'top_k'"),
    ("/predict/", b"a", "", 404, "POST /predict"),
    ("/%2e%2e/etc/passwd", None, "", 404, "POST /predict"),
    ("/predict", None, "", 405, "POST /predict"),
    ("/", b"a", "", 405, "POST /predict"),
]


@pytest.mark.parametrize(
    ("path", "body", "content_type", "status", "part"), WRONG, ids=[f"{w[3]} {w[4]}" for w in WRONG]
)
def test_one_line_says_what_is_wrong(
    port: int, path: str, body: bytes | None, content_type: str, status: int, part: str
) -> None:
    answer = ask(port, path, body, content_type=content_type)
    assert answer.status == status and part in answer.value["error"] and "\n" not in answer.value["error"]


def test_bytes_that_are_no_http_and_compressed_bodies_are_refused(port: int) -> None:
    assert ask(port, body=b"x", content_encoding="gzip").status == 415
    before = read_counters(port).get("mmcl_fast_requests_total{path=other,status=400}", 0)
    wrong = [
        b"what is this\r\n\r\n",
        head("Content-Length: 1, 2") + b"abc",
        head("Content-Length: -1"),
        head("Transfer-Encoding: chunked") + b"zz\r\n",
        head("X: " + 400_000 * "y"),
    ]
    for data in wrong:
        status, error = status_and_error(send_raw(port, data))
        assert status == 400 and "HTTP" in error
    assert read_counters(port)["mmcl_fast_requests_total{path=other,status=400}"] == before + len(wrong)
    # A body that is broken after its request was refused changes nothing.
    assert send_raw(port, head("Content-Length: 100001") + b"a").startswith(b"HTTP/1.1 413")
    assert ask(port, "/healthz").status == 200


def test_counters_for_prometheus(learner: Learner, media: dict[str, Path]) -> None:
    with serve_in_thread(learner) as port:
        for _ in range(3):
            ask(port, body=media["image"].read_bytes())
        parts = [("file", "a.txt", media["text"].read_bytes()), ("file", "b", bytes(range(256)))]
        last = ask(port, body=form(*parts), content_type=FORM)
        ask(port, body=b"")
        ask(port, "/nowhere")
        found = read_counters(port)
        assert ask(port, "/metrics").headers["content-type"].startswith("text/plain")
    want = {
        "mmcl_fast_requests_total{path=/predict,status=200}": 4,
        "mmcl_fast_requests_total{path=/predict,status=400}": 1,
        "mmcl_fast_requests_total{path=other,status=404}": 1,
        "mmcl_fast_request_seconds_count{path=/predict}": 5,
        "mmcl_fast_batch_items_count{}": 4,
        "mmcl_fast_batch_items_sum{}": 4,
        "mmcl_fast_items_total{modality=image,outcome=ok}": 3,
        "mmcl_fast_items_total{modality=text,outcome=ok}": 1,
        "mmcl_fast_items_total{modality=unknown,outcome=error}": 1,
        "mmcl_fast_requests_in_flight{}": 0,
        "mmcl_fast_received_bytes_total{}": 3 * media["image"].stat().st_size + len(form(*parts)),
    }
    assert {name: found[name] for name in want} == want
    assert found["mmcl_fast_sent_bytes_total{}"] > 4 * len(last.body) / 2 and found["process_open_fds{}"] > 0
