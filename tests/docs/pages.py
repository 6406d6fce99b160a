"""Run the pages of docs/ as a reader does: their commands and programs in order, in one shell, in one folder.

The words after a fence say what a block is:

- ``sh``: commands. All blocks of a page share one shell.
- ``python``: a program. If its first line is a comment with a file name, it is saved under that name instead of run.
- ``text``, right after such a block: its output. ``...`` stands for anything. White space matches any white space, and
  the lines of tables count as white space.
- ``... no-run``: a block that needs what a test does not have. ``check_unrun`` checks that it is valid.

Other languages are not read.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import typer

from mmcl_fast import cli
from mmcl_fast.compare.variants import parse_methods, parse_switches
from mmcl_fast.config import Config, load_config, parse_override
from tests.warm_python import warm_python

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```\s*$", re.M | re.S)
PORT = "8765"  # pages show this port, and a test replaces it by a free one
MARK = "=== block {} ==="
# The shell waits until a server answers, and ends it even after a failure.
START = """set -euo pipefail
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
answers() {{ (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; }}
"""
WAIT = "for _ in $(seq 600); do answers && break; kill -0 $!; sleep 0.1; done"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: ``sh`` or ``python``.
        text: the code.
        line: the line of its fence, from 1.
        run: False for a block with ``no-run``.
        printed: the output that the page shows; None where it shows none.
    """

    language: str
    text: str
    line: int
    run: bool = True
    printed: str | None = None

    @property
    def file(self) -> str | None:
        """The name under which a program is saved instead of run; None without one."""
        found = re.match(r"# ([\w.-]+\.py)\n", self.text) if self.language == "python" else None
        return found[1] if found else None


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    out: list[Block] = []
    previous = 0
    for found in FENCE.finditer(text):
        words = found[1].split()
        line = text.count("\n", 0, found.start()) + 1
        if words[:1] == ["text"] and out and not text[previous : found.start()].strip():
            out[-1] = Block(out[-1].language, out[-1].text, out[-1].line, out[-1].run, found[2])
        elif words and words[0] in ("sh", "python"):
            out.append(Block(words[0], found[2], line, "no-run" not in words[1:]))
        previous = found.end()
    return out


def script(found: list[Block], place: Path, port: int) -> str:
    """Return one bash program of all blocks that run. Programs and saved files are written to ``place``."""
    lines = [START.format(port=port)]
    for number, block in enumerate(found):
        lines.append(f"echo; echo '{MARK.format(number)}'")
        text = block.text.replace(PORT, str(port))
        if not block.run:
            continue
        if block.file:
            (place / block.file).write_text(text)
        elif block.language == "python":
            (place / f"block_{number}.py").write_text(text)
            lines.append(f"python block_{number}.py")
        else:
            lines.append(text)
            if re.search(rf"\b{port}\b.*&\s*$", text):
                lines.append(WAIT)
    return "\n".join(lines)


def plain(printed: str) -> str:
    """Return an output without the lines of tables and without reports of long phases."""
    return re.sub(r"[\u2500-\u257f]|^  .+: \d+ in [\d.]+ s\b.*\n", " ", printed, flags=re.M)


def pattern(printed: str) -> re.Pattern[str]:
    parts = [r"\s+".join(map(re.escape, part.split())) for part in plain(printed).split("...")]
    return re.compile(r"\s*" + r".*?".join(rf"\s*{part}\s*" for part in parts) + r"\s*\Z", re.S)


def run(page: Path, place: Path, timeout: float = 600) -> None:
    """Run a page in the folder ``place``.

    Raises:
        AssertionError: a block failed or printed something else. The message names its line.
    """
    bin = place / ".bin"
    bin.mkdir()
    warm = warm_python()
    python = warm.command(bin / "python", [])
    warm.command(bin / "mmcl-fast", ["-m", "mmcl_fast"], program=python)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = blocks(page)
    environment = {
        **os.environ,
        "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }
    environment.pop("COLUMNS", None)
    done = subprocess.run(
        ["bash", "-c", script(found, place, port)],
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    outputs = re.split(r"^=== block \d+ ===\n", done.stdout, flags=re.M)[1:]
    if done.returncode:
        block = found[len(outputs) - 1]
        raise AssertionError(f"{page.name}, line {block.line}: exit code {done.returncode}\n{outputs[-1]}")
    for block, output in zip(found, outputs, strict=True):
        if block.printed is not None and block.run and not pattern(block.printed).match(plain(output)):
            raise AssertionError(f"{page.name}, line {block.line} printed:\n{output}\nand not:\n{block.printed}")


def check_unrun(block: Block, variables: dict[str, str] | None = None) -> None:
    """Check a block without running it.

    A program must compile, and the names that it takes from packages must exist. Options of ``mmcl-fast`` commands,
    keys of ``--set`` and methods of ``--methods`` with their options must exist too.

    Args:
        block: a block with ``no-run``.
        variables: shell variables that earlier blocks of the page set; this block's are added.
    """
    variables = {} if variables is None else variables
    if block.language == "python":
        _check_names(ast.parse(block.text))
        return
    for line in block.text.replace("\\\n", "").splitlines():
        line = re.sub(r"\$(\w+)", lambda found: variables.get(found[1], found[0]), line)
        variables |= dict(re.findall(r"^(\w+)=(\S+)", line))
        words = shlex.split(line, comments=True)
        starts = [i + 1 for i, word in enumerate(words) if word.endswith(("mmcl-fast", "mmcl_fast"))]
        if starts and words[0] != "git" and words[0] != "cd":
            _check_command(words[starts[0] :])


def _check_names(tree: ast.Module) -> None:
    known: dict[str, object] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {a.asname or a.name.split(".")[0]: importlib.import_module(a.name) for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                known[alias.asname or alias.name] = (
                    getattr(module, alias.name)
                    if hasattr(module, alias.name)
                    else importlib.import_module(f"{node.module}.{alias.name}")
                )
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known:
            assert hasattr(known[node.value.id], node.attr), f"{node.value.id} has no {node.attr}"


def _check_command(words: list[str]) -> None:
    group = typer.main.get_command(cli.app)
    while words[:1] == ["--use"]:  # the program's own option, with a file
        words = words[2:]
    while hasattr(group, "commands") and words:
        assert words[0] in group.commands, f"mmcl-fast has no command {words[0]}"
        group, words = group.commands[words[0]], words[1:]
    options = {option for parameter in group.params for option in parameter.opts}
    for word, value in zip(words, [*words[1:], ""]):
        if word.startswith("--"):
            assert word in options, f"mmcl-fast {group.name} has no option {word}"
        if word == "--methods" and "$(" not in value:
            parse_methods(value.removesuffix(",..."), load_config("demo"))
        if word == "--switches":
            parse_switches(value, load_config("demo"))
        if word == "--set":
            key = parse_override(value)[0]
            section, name = key.split(".")[:2]
            assert name in Config.model_fields[section].annotation.model_fields, f"no key {key}"
