"""``mmcl-fast serve``: its start, its end, and the errors that stop it from starting."""

from __future__ import annotations

import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from mmcl_fast.learning import Learner
from tests.cli.calls import call, error_of
from tests.serve.calls import Answer, ask, read_counters, serve_process


def test_a_signal_ends_it_once_requests_in_flight_are_answered(
    place: Path, learner: Learner, media: dict[str, Path], tmp_path: Path
) -> None:
    answers: list[Answer] = []
    with serve_process(place / "run", tmp_path / "log", "--wait-ms", 1500, "--top-k", 2) as (process, port):
        idle = socket.create_connection(("127.0.0.1", port))
        body = media["image"].read_bytes()
        asking = threading.Thread(target=lambda: answers.append(ask(port, body=body)))
        asking.start()
        while not read_counters(port)["mmcl_fast_requests_in_flight{}"]:
            time.sleep(0.01)
        process.terminate()
        assert process.wait(30) == 0
        asking.join(30)
        assert (tmp_path / "log").read_text() == ""
        idle.close()
    (item,) = answers[0].value["items"]
    want = learner.predict([media["image"]], top_k=2)[0]
    assert [label["class"] for label in item["labels"]] == [name for _, name in want.labels]


def test_an_address_that_is_taken_or_not_of_this_machine(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = error_of(call("serve", place / "run", "--port", port, code=2))
        assert f"127.0.0.1 port {port}" in line and "another --port" in line
    assert "--host" in error_of(call("serve", place / "run", "--host", "no-such-host.invalid", code=2))
    assert "--host" in error_of(call("serve", place / "run", "--host", "192.0.2.1", "--port", 0, code=2))


def test_a_missing_run_and_wrong_options(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    want = error_of(call("predict", gone, place / "mine.toml", code=2))
    assert error_of(call("serve", gone, "--port", 0, code=2)) == want
    for size in ("0", "many", "-1MB", "32XB", "1.5MB"):
        assert f"--max-bytes {size}" in error_of(call("serve", place / "run", f"--max-bytes={size}", code=2))
    assert "no text in it" in error_of(call("serve", place / "run", "--port", 0, "--classes", " , ", code=2))
    call("serve", place / "run", "--max-batch", 0, code=2)
    monkeypatch.delattr("mmcl_fast.serve.server")
    monkeypatch.delitem(sys.modules, "mmcl_fast.serve.server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'mmcl-fast[serve]'" in error_of(call("serve", place / "run", code=2))


@pytest.mark.parametrize(
    ("text", "size"), [("1000", 1000), ("500kB", 500_000), ("32MB", 32_000_000), ("2 GiB", 2**31), ("7b", 7)]
)
def test_sizes(text: str, size: int) -> None:
    from mmcl_fast.cli.serve import parse_size

    assert parse_size(text) == size
