"""The benchmarks of the server: the counts of the clients, and the tables."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import isolation, serve, serve_client
from mmcl_fast import bench, cli
from mmcl_fast.media import sniff


def test_bench_serve_hands_its_options_to_the_suite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
        calls.append(command)
        return subprocess.CompletedProcess(command, 5)

    monkeypatch.setattr(bench.subprocess, "run", run)
    words = ["bench", "serve", str(tmp_path), "--clients", "3", "--seconds", "2", "--out", "here"]
    assert CliRunner().invoke(cli.app, words).exit_code == 5
    (command,) = calls
    assert command[1:] == [
        *("-m", "benchmarks.serve", str(tmp_path), "--clients", "3", "--seconds", "2.0", "--out", "here")
    ]
    calls.clear()
    assert CliRunner().invoke(cli.app, ["bench", "serve", str(tmp_path), "--isolation"]).exit_code == 5
    assert calls[0][1:] == ["-m", "benchmarks.isolation", str(tmp_path), "--clients", "50", "--seconds", "60.0"]
    gone = CliRunner().invoke(cli.app, ["bench", "serve", str(tmp_path / "gone")])
    assert gone.exit_code == 2 and "no such run folder" in gone.stderr and len(calls) == 1


def test_the_files_are_of_all_modalities_alike() -> None:
    found = serve.choose_files()
    kinds = [modality for modality, _ in found]
    assert {kinds.count(modality) for modality in ("image", "video", "audio", "depth", "text")} == {
        serve.FILES_PER_MODALITY
    }
    assert kinds != sorted(kinds) and all(sniff(path) == modality for modality, path in found[:20])


def test_clients_count_errors_and_wrong_answers(tmp_path: Path) -> None:
    """The server's answers after the first are right, wrong, refused and broken off in turn."""
    file, turn = tmp_path / "a.txt", itertools.count()
    file.write_text("a text")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            assert await reader.readexactly(6) == b"a text" and b"Content-Length: 6" in head
            number = next(turn)
            body = json.dumps({"items": [{"labels": [{"probability": 0.5 if number % 4 == 2 else 0.9}]}]})
            if number % 4 == 0 and number:
                break
            status = "503 Service Unavailable" if number % 4 == 3 else "200 OK"
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            await asyncio.sleep(0.001)
        writer.close()

    async def run() -> dict:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        files = [("text", str(file))]
        return await serve_client.run_clients({"port": port, "clients": 1, "seconds": 0.3, "files": files})

    counts = asyncio.run(run())
    turns = counts["answers"] // 2
    assert turns > 3 and abs(counts["wrong"] - turns) <= 1 and len(counts["latencies"]["text"]) == counts["answers"]
    assert set(counts["errors"]) == {"503", "IncompleteReadError"} and abs(counts["errors"]["503"] - turns) <= 1


def test_the_table_of_isolation() -> None:
    rounds = {"in this process": [10.0, 30.0, 20.0], "in workers": [19.0, 18.0, 50.0]}
    assert isolation.make_row("check, image", rounds) == ["check, image", "files/s", "20", "19", "0.95", "3"]
    assert isolation.make_row("start-up of serve", rounds)[1] == "s"
    assert isolation.make_row("serve, 9 clients", rounds)[1] == "requests/s"
    assert len(isolation.COLUMNS) == 6


def test_the_table() -> None:
    times = [i / 1000 for i in range(1, 101)]
    result = {
        "way": "batches of up to 32",
        "clients": 50,
        "seconds": 2.0,
        "answers": 100,
        "errors": {"503": 2, "OSError": 1},
        "wrong": 4,
        "batch": 3.5,
        "server CPU s": 3.0,
        "client CPU s": 0.1,
        "latencies": {"image": times[:50], "text": times[50:]},
        "resident MB": [100.0, 500.0, 900.0, *[1000.0] * 4, 1003.0, 1004.0],
    }
    alone = {**result, "way": "no batching", "answers": 40, "errors": {}}
    first, second = serve.make_rows([result, alone])
    assert len(first) == len(second) == len(serve.COLUMNS)
    assert first[:9] == ["batches of up to 32", "50", "2", "50.0", "51", "96", "100", "3", "4"]
    assert first[9:] == ["3.50", "1.50", "0.05", "1000", "1004", "+3.0", "2.50"] and second[-1] == "1.00"
