"""A server takes over new versions between batches, and keeps the old one where a new one is broken."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import serve_swaps
from mmcl_fast.errors import RunError, UserError
from mmcl_fast.learning import Learner
from mmcl_fast.runs.versions import set_current
from mmcl_fast.serve import Limits
from mmcl_fast.serve.served import ServedModel, ServedVersion, load_current
from mmcl_fast.serve.watch import Watcher
from tests.cli.calls import call, error_of
from tests.serve.calls import Answer, ask, read_counters, serve_in_thread, serve_process


def watched(run: Path, limits: Limits | None = None) -> Any:
    """Serve a run in a thread, and look at its pointer often."""
    watcher = Watcher(run, "cpu", seconds=0.05)
    learner, version = load_current(run, "cpu")
    return serve_in_thread(learner, limits, version=version, watcher=watcher)


def wait_for(port: int, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return /version once it is as it should be."""
    for _ in range(3000):
        found = ask(port, "/version").value
        if reached(found):
            return found
        time.sleep(0.02)
    raise AssertionError(found)


def test_no_request_is_lost_while_versions_swap(versions: Path) -> None:
    bodies = serve_swaps.choose_bodies(versions, 9)
    with watched(versions) as port:
        found = asyncio.run(serve_swaps.swap_under_load(port, versions, bodies, requests=600, clients=12, swaps=5))
        counters = read_counters(port)
    assert serve_swaps.is_good(found, 5), found
    assert found["requests"] >= 600 and min(found["answers by version"].values()) > 0
    assert found["files whose answer differs between the versions"] != "0 of 9"  # else no answer could be wrong
    assert counters["mmcl_fast_model_swaps_total{outcome=ok}"] == 6  # one more shows what version 2 answers alone
    assert counters["mmcl_fast_model_swaps_total{outcome=failed}"] == 0


def test_an_answer_of_another_version_is_seen() -> None:
    good = {"lost": {}, "answers of no version": 0, "wrong for the version named": 0, "swaps": 5}
    assert serve_swaps.is_good(good, 5) and not serve_swaps.is_good(good, 6)
    for key, value in (("lost", {"500": 1}), ("answers of no version", 1), ("wrong for the version named", 1)):
        assert not serve_swaps.is_good({**good, key: value}, 5)


def test_every_answer_names_its_version(versions: Path, media: dict[str, Path]) -> None:
    picture = media["image"].read_bytes()
    with watched(versions) as port:
        first = ask(port, "/version")
        assert first.value["version"] == 1 and first.value["parent"] is None and first.value["classes"] == 4
        assert first.value["modalities"] == ["image", "text"] and first.value["watching"] is True
        assert first.value["last_failed"] is None and first.value["learned_at"].startswith("20")
        set_current(versions, 2)
        second = wait_for(port, lambda found: found["version"] == 2)
        assert second["parent"] == 1 and second["classes"] == 6 and second["modalities"] == ["image", "text", "depth"]
        record = json.loads((versions / "versions/2/version.json").read_text())
        assert second["learned_at"] == record["created"]
        found = read_counters(port)
        for answer in (ask(port, body=picture), ask(port, body=bytes(range(256))), ask(port, "/healthz")):
            assert answer.value["version"] == 2 and answer.headers["x-model-version"] == "2"
        assert ask(port, body=b"").headers["x-model-version"] == "2"
        assert found["mmcl_fast_model_version{}"] == 2
        set_current(versions, 1)  # as rollback does
        wait_for(port, lambda found: found["version"] == 1)
        assert ask(port, body=picture).value["version"] == 1


def test_a_request_that_began_keeps_its_version(versions: Path, media: dict[str, Path]) -> None:
    answers: list[Answer] = []
    body = media["image"].read_bytes()
    with watched(versions, Limits(wait_ms=3000)) as port:
        asking = threading.Thread(target=lambda: answers.append(ask(port, body=body)))
        asking.start()
        while not read_counters(port)["mmcl_fast_requests_in_flight{}"]:
            time.sleep(0.01)
        time.sleep(0.5)  # by now its file is decoded and waits for its batch
        set_current(versions, 2)
        wait_for(port, lambda found: found["version"] == 2)
        asking.join(60)
        assert answers[0].status == 200 and answers[0].value["version"] == 1
        assert ask(port, body=body).value["version"] == 2


def test_the_old_version_is_freed(versions: Path, media: dict[str, Path]) -> None:
    watcher = Watcher(versions, "cpu", seconds=0.05)
    learner, version = load_current(versions, "cpu")
    old, folder = weakref.ref(learner), learner.cache.folder
    running = serve_in_thread(learner, version=version, watcher=watcher)
    del learner
    with running as port:
        assert ask(port, body=media["image"].read_bytes()).value["version"] == 1
        assert old() is not None and folder.exists()
        set_current(versions, 2)
        wait_for(port, lambda found: found["version"] == 2)
        for _ in range(500):  # without the garbage collector, which may not run for long
            if old() is None:
                break
            time.sleep(0.01)
        assert old() is None and not folder.exists()


def test_a_broken_version_is_reported_once_and_the_old_one_goes_on(
    versions: Path, media: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(versions / "versions/2", versions / "versions/3")
    for file in (versions / "versions/3/checkpoints").rglob("model.safetensors"):
        data = file.read_bytes()
        file.unlink()  # a hard link: the other versions share its bytes
        file.write_bytes(data[:-4] + b"oops")
    picture = media["image"].read_bytes()
    with watched(versions) as port:
        (versions / "current.json").write_text('{"version": 3}')
        failed = wait_for(port, lambda found: found["last_failed"])
        assert failed["version"] == 1 and failed["last_failed"]["version"] == 3
        assert "checksum" in failed["last_failed"]["reason"] and str(versions) not in failed["last_failed"]["reason"]
        time.sleep(0.5)  # several more looks
        assert ask(port, body=picture).value["version"] == 1
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == 1 and "version 3 can't be served" in lines[0] and "version 1 goes on" in lines[0]
        (versions / "current.json").write_text("{")
        wait_for(port, lambda found: found["last_failed"]["version"] is None)
        assert "the pointer can't be served" in capfd.readouterr().err
        assert ask(port, body=picture).value["version"] == 1
        assert read_counters(port)["mmcl_fast_model_swaps_total{outcome=failed}"] == 2
        set_current(versions, 2)
        wait_for(port, lambda found: found["version"] == 2)
        assert ask(port, body=picture).value["version"] == 2


def test_a_version_that_does_not_answer_is_not_taken(versions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []
    real = ServedModel.warm_up

    def warm_up(self: ServedModel) -> None:
        real(self)
        asked.append(self.version.number)
        if len(asked) == 1:
            raise ZeroDivisionError("planted")

    monkeypatch.setattr(ServedModel, "warm_up", warm_up)
    with watched(versions) as port:
        set_current(versions, 2)
        failed = wait_for(port, lambda found: found["last_failed"])
        assert failed["version"] == 1 and failed["last_failed"]["reason"] == "ZeroDivisionError: planted"
        set_current(versions, 2)  # written anew, so it is tried again
        wait_for(port, lambda found: found["version"] == 2)
    assert asked == [2, 2]


def test_a_warm_up_finds_answers_that_are_not_finite(versions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ServedModel(Learner.load(versions, device="cpu"), ServedVersion(1), None, 4)
    model.warm_up()
    model.learner.classes.embedding[:] = float("nan")
    real = model.learner.method.scores
    monkeypatch.setattr(model.learner.method, "scores", lambda *a, **k: real(*a, **k) * float("nan"))
    with pytest.raises(RunError, match="not finite"):
        model.warm_up()


def test_a_saved_learner_has_no_versions(learner: Learner, place: Path, tmp_path: Path) -> None:
    learner.save(tmp_path / "saved")
    with pytest.raises(UserError, match="--watch: .*no config.json.*or leave out --watch"):
        Watcher(tmp_path / "saved")
    assert "--watch" in error_of(call("serve", tmp_path / "saved", "--watch", "--port", 0, code=2))
    assert load_current(tmp_path / "saved", "cpu")[1] == ServedVersion()
    with serve_in_thread(learner) as port:
        found = ask(port, "/version")
        assert found.value["version"] is None and "x-model-version" not in found.headers
        assert ask(port, body=b"some text").value["version"] is None
        assert found.value["watching"] is False


def test_the_folder_of_a_version_is_served_under_its_number(two_versions: Path) -> None:
    learner, version = load_current(two_versions / "versions/2", "cpu")
    assert version.number == 2 and version.parent == 1 and len(learner.classes) == 6
    assert load_current(two_versions, "cpu")[1] == version
    with pytest.raises(UserError, match="give that run folder"):
        Watcher(two_versions / "versions/2")


def test_the_command_watches(versions: Path, tmp_path: Path) -> None:
    with serve_process(versions, tmp_path / "log", "--watch") as (process, port):
        set_current(versions, 2)
        wait_for(port, lambda found: found["version"] == 2)
        process.terminate()
        assert process.wait(60) == 0 and process.stdout is not None
        assert process.stdout.read() == f"{versions}: serves version 2\n"
    assert (tmp_path / "log").read_text() == ""
