"""Every example in the help of a command runs. The help has the exit codes, and completion works."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer

from mmcl_fast import bench, cli
from mmcl_fast.config import loading
from tests.cli.calls import call

# Options added to an example, which override its own: enough to see that it runs.
SMALLER = {
    "train": "--quiet",
    "learn": "--quiet",
    "compare": "--seeds 0 --methods ridge --jobs 1 --quiet",
    "tune": "--methods ridge --trials 2 --jobs 1 --quiet",
    "ablate": "--seeds 0 --switches blending --jobs 1 --quiet",
    "bench ops": "--seconds 0.01 --select '256x100x512 and float32'",
    "serve": "--port 0",
    "bench serve": "--seconds 0.5 --clients 2",
    "bench media": "--seconds 0.01 --modality text",
}
NEEDS = {"export": "onnxruntime", "serve": "uvicorn", "bench serve": "uvicorn"}
SLOW = ("bench ops", "bench serve", "export")


def commands(group: Any = None, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (name, help) of every command that is not a group of commands."""
    for name, command in sorted((group or cast(Any, typer.main.get_command(cli.app))).commands.items()):
        if hasattr(command, "commands"):
            yield from commands(command, f"{path}{name} ")
        else:
            yield path + name, command.help


def examples(text: str) -> list[list[str]]:
    part = text.partition("Example: ")[2]
    return [shlex.split(" ".join(part.split())) for part in re.findall(r"`(mmcl-fast [^`]+)`", part)]


@pytest.fixture(scope="module")
def here(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the things that examples name: small configs with the names of shipped ones, runs, files, benchmarks."""
    import av
    import numpy as np
    import soundfile
    from PIL import Image

    root = tmp_path_factory.mktemp("examples")
    for name in ("demo", "comm", "ridge"):
        shutil.copytree(place / "run", root / "runs" / name)
    configs = root / "configs"
    configs.mkdir()
    for name in ("demo", "folder"):
        text = (place / "mine.toml").read_text().replace('"data"', f'"{place / "data"}"')
        (configs / f"{name}.toml").write_text(text.replace('"./model"', f'"{place / "model"}"'))
    rng = np.random.default_rng(0)
    soundfile.write(root / "bark.wav", rng.normal(0, 0.1, 16000), 16000)
    (root / "photos").mkdir()
    picture = rng.integers(0, 255, (48, 48, 3), np.uint8)
    for name in ("photo.jpg", "photos/1.jpg", "photos/2.jpg"):
        Image.fromarray(picture).save(root / name)
    with av.open(str(root / "street.mp4"), "w") as video:
        stream = video.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 48
        for _ in range(8):
            video.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        video.mux(stream.encode())
    shutil.copytree(place / "data/image", root / "demo/image")
    shutil.copytree(place / "data/image/test", root / "labelled/image")
    for file in sorted((place / "data/image").glob("*/class_0/*.png")):  # the colours of no other class
        bird = root / "new_classes/image" / file.parent.parent.name / "bird" / file.name
        bird.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - np.asarray(Image.open(file))).save(bird)
    call("learn", root / "runs/demo", root / "new_classes", "--quiet")
    shutil.copytree(place / "data/image", root / "mine/image")
    leak = next((root / "mine/image/test/class_0").iterdir())
    shutil.copy(leak, root / "mine/image/train/class_0" / f"again{leak.suffix}")
    call("data", "check", root / "mine", "--fix")
    assert (root / "mine/.left_out/1").is_dir()
    rows = [
        {
            "path": str(file.relative_to(root / "demo")),
            "modality": "image",
            "label": file.parent.name,
            "split": file.parent.parent.name,
        }
        for file in sorted((root / "demo/image").glob("*/*/*.png"))
    ]
    (root / "demo/manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(bench.find_checkout() / "benchmarks", root / "benchmarks", ignore=shutil.ignore_patterns("results"))
    return root


@pytest.mark.parametrize(
    ("command", "text"),
    [pytest.param(*pair, id=pair[0], marks=[pytest.mark.slow] if pair[0] in SLOW else []) for pair in commands()],
)
def test_the_examples_of_a_command_run(command: str, text: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = examples(text)
    assert found and text.rstrip().endswith("`"), "the help ends with an example"
    if command in NEEDS:
        pytest.importorskip(NEEDS[command])
    monkeypatch.chdir(here)
    monkeypatch.setattr(loading, "SHIPPED", here / "configs")
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)  # under these variables the benchmarks' own pytest measures nothing
    if command == "train":
        shutil.rmtree("runs/demo")
    if command == "bench train":  # takes a minute; tests/benchmarks/test_bench_train.py runs its rows
        monkeypatch.setattr(bench.subprocess, "run", lambda *args, **options: SimpleNamespace(returncode=0))
    if command in ("remove", "rename"):  # of a version that knows the class
        call("rollback", "runs/demo", "--to", 2)
    if command == "serve":  # stop as soon as it answers
        monkeypatch.setattr("uvicorn.Server.on_tick", lambda *args: asyncio.sleep(0, True))
    for words in found:
        assert words[1 : 1 + len(command.split())] == command.split()
        call(*words[1:], *shlex.split(SMALLER.get(command, "")))


def test_the_help_tells_exit_codes_and_completes(tmp_path: Path) -> None:
    text = " ".join(call("--help").stdout.split())
    for part in ("Exit codes: 0 done", "1 done, but", "2 wrong input", "130 and 143", "--install-completion"):
        assert part in text

    def output_of(*words: str, **environment: str) -> str:
        code = "import sys; from mmcl_fast.cli import main; sys.argv = ['mmcl-fast', *sys.argv[1:]]; main()"
        return subprocess.run(
            [sys.executable, "-c", code, *words],
            env={**os.environ, **environment},
            text=True,
            capture_output=True,
            timeout=120,
        ).stdout

    script = output_of("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    variable = re.search(r"(_\w+_COMPLETE)=complete_bash", script)
    assert variable and "complete " in script and "mmcl-fast" in script
    found = output_of(**{variable[1]: "complete_bash", "COMP_WORDS": "mmcl-fast pre", "COMP_CWORD": "1"})
    assert found.split() == ["predict"]
    found = output_of(**{variable[1]: "complete_bash", "COMP_WORDS": "mmcl-fast predict --for", "COMP_CWORD": "2"})
    assert found.split() == ["--format"]
