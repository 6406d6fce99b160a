"""Call commands as a user calls them, and write a finished run for them."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from mmcl_fast import cli
from tests.toy import write_folder

FAST = ("epochs=1", "steps=5", "sampled_features=32", "batch_size=8")


def call(*words: object, code: int = 0, input: str | bytes | None = None):
    """Run ``mmcl-fast`` with these words, check its exit code, and return its result."""
    result = CliRunner().invoke(cli.app, [str(word) for word in words], input=input)
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def error_of(result) -> str:
    """Return the one error line of a result, and check that there is no traceback."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in result.output
    return lines[0]


def write_place(root: Path) -> Path:
    """Write ``data`` (a stream), ``model`` (an encoder), ``mine.toml`` (a config of both) and ``run`` (finished)."""
    from tests.tiny_models import write_clip

    write_folder(root / "data", classes=2, train=4, test=3, modalities=("image", "text"))
    write_clip(root / "model")
    options = "\n".join(option.replace("=", " = ") for option in FAST)
    (root / "mine.toml").write_text(
        f'[stream]\nsource = "folder"\npath = "data"\n[encoder]\nname = "./model"\nprompt_blocks = 2\n'
        f'[method.options]\n{options}\n[train]\ndevice = "cpu"\n'
    )
    call("train", root / "mine.toml", "--out", root / "run", "--quiet")
    return root
