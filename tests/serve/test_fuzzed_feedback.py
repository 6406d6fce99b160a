"""Hostile requests to /version and /feedback cause no server error, and nothing is kept that is not valid."""

from __future__ import annotations

import random
import urllib.parse
from collections import Counter
from pathlib import Path

from mmcl_fast import media as readers
from mmcl_fast.streams.stream import Stream
from tests.serve.calls import BOUNDARY, FORM, ask, form, read_counters, send_raw, serve_process
from tests.serve.test_fuzzed import HEADERS, HUGE, KINDS, damaged

COUNT = 500
TOKEN = "a-secret-of-the-tests-0123456789"
LABELS = (
    *(
        "class_0",
        "class_1",
        "a new class",
        "Zürich",
        "..",
        ".",
        "/etc/passwd",
        "../../x",
        "a/b",
        "a\\b",
        "train",
        "test",
    ),
    *("", " ", ".hidden", "Thumbs.db", "x" * 99, "x" * 300, "é" * 150, "CON", "a\0b", "a\nb", "%2e%2e%2f", "‮x", "🐈"),
)
NAMES = ("a.png", "../../x.png", "/etc/passwd", "a" * 3000, "é\x7f", 'a"b', "CON", "x.tar.gz")
METHODS = ("POST", "POST", "GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")


def make_sample(bodies: dict[str, bytes], rng: random.Random) -> tuple[str, str | None, bytes]:
    data = bodies[rng.choice(KINDS)]
    kind = rng.randrange(6)
    if kind == 0:
        return "text", None, rng.choice([b"word10 word11", rng.randbytes(40), b"\xef\xbb\xbfa bird", b" \n ", b"\0"])
    if kind < 4:
        data = damaged(data, rng)
    return rng.choice(["file", "", "label", "x" * 500]), rng.choice(NAMES), data


def make_form(bodies: dict[str, bytes], rng: random.Random) -> bytes:
    parts = [make_sample(bodies, rng)] * rng.choice([1, 1, 1, 1, 0, 2])
    label = rng.choice(LABELS).encode() if rng.random() < 0.9 else rng.randbytes(20)
    parts += [("label", None, label)] * rng.choice([1, 1, 1, 1, 0, 2])
    if rng.random() < 0.3:
        parts.append(("modality", None, rng.choice([b"image", b"text", b"depth", b"video", b"..", b"", b"\xff"])))
    if rng.random() < 0.1:
        parts.append((rng.choice(["folder", "path", "\\", "%0a"]), None, b"../x"))
    rng.shuffle(parts)
    body = form(*parts)
    return rng.choice([body] * 5 + [damaged(body, rng), body.replace(BOUNDARY.encode(), b"other", 1)])


def test_hostile_feedback_does_no_harm(place: Path, media: dict[str, Path], tmp_path: Path) -> None:
    rng, bodies = random.Random(0), {kind: media[kind].read_bytes() for kind in KINDS}
    kept, proof = tmp_path / "outer/kept", {"authorization": f"Bearer {TOKEN}"}
    statuses: Counter[str] = Counter()
    words = ("--watch", "--feedback", kept, "--feedback-new-classes", "--max-bytes", "100kB")
    with serve_process(place / "run", tmp_path / "log", *words, env={"MMCL_FAST_TOKEN": TOKEN}) as (process, port):
        for number in range(COUNT):
            kind = rng.randrange(10)
            if number % 50 == 0:
                statuses[str(ask(port, "/feedback", bytes(150_000), content_type=FORM, **proof).status)] += 1
            elif kind < 6:
                answer = ask(port, "/feedback", make_form(bodies, rng), content_type=FORM, **proof)
                assert answer.value
                statuses[str(answer.status)] += 1
            elif kind < 8:
                path = rng.choice(["/version", "/version", "/feedback"])
                query = rng.choice(
                    ["", "?", "?a=b", f"?version={rng.choice(HUGE)}", "?%ff%00=", "/", "/../version", ";x"]
                )
                method = rng.choice(METHODS)
                body = rng.choice([None, b"", rng.randbytes(500), bytes(150_000)])
                answer = ask(port, urllib.parse.quote(path + query, safe="/?=&%;"), body, method, **proof)
                assert method == "HEAD" or answer.value
                statuses[str(answer.status)] += 1
            else:
                lines = [rng.choice(HEADERS).format(n=rng.choice([*HUGE, "5"])) for _ in range(rng.randrange(1, 4))]
                secret = rng.choice([TOKEN, TOKEN, "wrong", "\xff"])
                first = rng.choice(["POST /feedback HTTP/1.1", "GET /version HTTP/1.1", "POST /version HTTP/1.0"])
                head = "\r\n".join([first, "Host: here", f"Authorization: Bearer {secret}", *lines, "", ""])
                message = head.encode("latin-1", "replace") + rng.choice([b"", b"abcd", make_form(bodies, rng)])
                answered = send_raw(port, rng.choice([message, damaged(message, rng)]), end=True)
                statuses[answered.split()[1].decode() if answered.startswith(b"HTTP/1.1 ") else "none"] += 1
            assert process.poll() is None, f"request {number} ended the server"
        assert not [status for status in statuses if status.startswith("5")], statuses
        assert {"200", "201", "400", "401", "404", "405", "409", "413", "415", "422"} <= set(statuses), statuses
        found = read_counters(port)
        assert found["mmcl_fast_requests_in_flight{}"] == 0
        assert ask(port, "/version").value["version"] == 1
        process.terminate()
        assert process.wait(60) == 0
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log and "Exception" not in log
    # Everything that was written lies in the folder, decodes, and is counted.
    assert [p.name for p in (tmp_path / "outer").iterdir()] == ["kept"]
    files = [file for file in kept.rglob("*") if file.is_file()]
    assert len(files) == found["mmcl_fast_feedback_total{outcome=kept}"] > 5
    for file in files:
        modality, label, name = file.relative_to(kept).parts
        assert len(name.partition(".")[0]) == 64 and label in LABELS
        readers.decode(file, modality)
    for folder in [folder for folder in kept.glob("*/*") if len(list(folder.iterdir())) < 2]:  # a class needs two
        for file in folder.iterdir():
            (folder / f"again{file.suffix}").write_bytes(file.read_bytes())
    assert len(Stream.from_folder(kept, check=False).samples) >= len(files)
