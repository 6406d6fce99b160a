"""The site builds without a warning, needs no network, and shows what the code has."""

from __future__ import annotations

import html
import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer

from mmcl_fast import cli
from tests import plain_words
from tests.docs.pages import ROOT
from tests.docs.test_api import public_names

for package in ("mkdocs", "material", "mkdocstrings", "latex2mathml"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install -r requirements-docs.txt", allow_module_level=True)


def build(config: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Build a site strictly, as ``make docs`` does."""
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--config-file",
        str(config),
        "--site-dir",
        str(out),
    ]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def pages(site: Path) -> dict[str, str]:
    """The HTML of every page but the 404 page, by its path."""
    found = {str(page.relative_to(site)): page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    found.pop("404.html", None)
    return found


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for name, text in pages(site).items():
        loaded = re.findall(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="([^"]+)"', text)
        loaded += re.findall(r'<link\b[^>]*\bhref="([^"]+)"', text)
        assert loaded and not [address for address in loaded if re.match(r"(https?:)?//", address)], name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_links_lead_to_files_of_the_site_and_addresses_are_well_formed(site: Path) -> None:
    for name, text in pages(site).items():
        ids = set(re.findall(r'\bid="([^"]+)"', text))
        for address in map(html.unescape, set(re.findall(r'<a\b[^>]*\bhref="([^"]+)"', text))):
            parts = urlsplit(address)
            if parts.scheme in ("http", "https"):
                assert parts.hostname and "." in parts.hostname, (name, address)
            elif parts.path and parts.scheme != "mailto":
                target = (site / name).parent / parts.path
                target = target / "index.html" if target.is_dir() else target
                assert target.is_file(), (name, address)
                if parts.fragment:
                    assert f'id="{parts.fragment}"' in target.read_text(encoding="utf-8"), (name, address)
            elif parts.fragment:
                assert parts.fragment in ids or parts.fragment == "__skip", (name, address)


def test_formulas_are_mathml(site: Path) -> None:
    text = (site / "method.html").read_text(encoding="utf-8")
    assert text.count("<math") > 50 and "arithmatex" not in text


def test_every_public_name_is_on_an_api_page(site: Path) -> None:
    api = "".join(text for name, text in pages(site).items() if name.startswith("api/"))
    ids = set(re.findall(r'\bid="(mmcl_fast\.[\w.]+)"', api))
    for module, names in public_names().items():
        for name in names if module != "mmcl_fast" else ():
            # A function may have the name of a submodule: ops.backends.
            value = getattr(importlib.import_module(module), name)
            if not (inspect.isclass(value) or inspect.isfunction(inspect.unwrap(value))):
                continue  # a constant is shown where it has a docstring
            home = getattr(value, "__module__", module)
            assert {f"{module}.{name}", f"{home}.{name}"} & ids, f"{module}.{name}"


def test_every_command_and_option_is_on_the_command_line_page(site: Path) -> None:
    text = (site / "reference/cli.html").read_text(encoding="utf-8")

    def check(group: Any, words: str) -> int:
        count = 0
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                count += check(command, f"{words} {name}")
                continue
            begin = text.find(f">{words} {name}<a")
            assert begin > 0, f"{words} {name}"
            section = text[begin : text.find("<h2", begin)]
            for parameter in command.params:
                for option in parameter.opts if parameter.param_type_name == "option" else ():
                    assert f"<code>{option}</code>" in section, f"{words} {name} {option}"
            count += 1
        return count

    assert check(typer.main.get_command(cli.app), "mmcl-fast") > 15


def tool(name: str) -> Any:
    """A module of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_docstrings_are_rewritten_for_griffe() -> None:
    rewrite = tool("site_griffe").rewrite
    assert rewrite("Args:\n    a, b: text\n        more\n    c: other") == (
        "Args:\n    a: text\n        more\n    b: text\n        more\n    c: other"
    )
    assert rewrite("Example::\n\n    x = 1\n\n    y = 2\n\nEnd.") == (
        "**Example**\n\n```python\nx = 1\n\ny = 2\n```\n\nEnd."
    )


def test_links_to_files_outside_docs_lead_to_pages_of_the_site() -> None:
    relink = tool("site_repository").relink
    assert relink("[log](../CHANGELOG.md#x)", "docs/README.md") == "[log](changelog.md#x)"
    assert relink("[tutorial](docs/tutorial.md)", "CHANGELOG.md") == "[tutorial](tutorial.md)"
    assert relink("```\n[log](../CHANGELOG.md)\n```\n", "docs/README.md") == "```\n[log](../CHANGELOG.md)\n```\n"
    page = relink("[`Learner.learn`](../../mmcl_fast/learning/learner.py)", "docs/howto/resume.md")
    line = int(
        re.fullmatch(
            r'<a href="(?:\.\./)repository/mmcl_fast/learning/learner\.py\.html#__codelineno-0-(\d+)">.*', page
        )[1]
    )
    assert "def learn(" in (ROOT / "mmcl_fast/learning/learner.py").read_text().splitlines()[line - 1]


def test_text_from_the_code_is_plain(tmp_path: Path) -> None:
    program = "import sys; sys.path.insert(0, 'docs'); import site_{0}; print(site_{0}.text())"
    for name in ("cli", "config", "formats"):
        command = [sys.executable, "-c", program.format(name)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        page = tmp_path / f"{name}.md"
        page.write_text(re.sub(r"^:   ", "\n", done.stdout, flags=re.M))
        assert list(plain_words.faults(page)) == []


def test_a_link_to_nowhere_fails_the_build(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("# Page\n\n[nowhere](#nowhere)\n")
    config = tmp_path / "mkdocs.yml"
    config.write_text("site_name: test\ntheme: {name: material, font: false}\nvalidation: {anchors: warn}\n")
    done = build(config, tmp_path / "site")
    assert done.returncode == 1 and "no such anchor" in done.stdout + done.stderr
