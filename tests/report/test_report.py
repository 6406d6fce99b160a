"""The page of a report holds the run's numbers and loads nothing."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from base64 import b64decode
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from plotly.colors import sample_colorscale

from mmcl_fast import report
from mmcl_fast.errors import RunError
from mmcl_fast.report import figures, heatmaps, plot_style
from mmcl_fast.report.sections.configuration import flatten
from mmcl_fast.templates import make_environment
from tests.conftest import TASKS, summary_of


def figures_of(text: str) -> list[dict]:
    """Return the figures in a page, without the samples of scatter plots."""
    found = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.S)
    return [block for block in map(json.loads, found) if isinstance(block, dict)]


def without_library(text: str) -> str:
    """Check that a page holds plotly.js, and return the page without it."""
    from plotly.offline import get_plotlyjs

    packed = re.search(r'<script type="application/gzip" id="library">(.*?)</script>', text)
    assert packed and gzip.decompress(b64decode(packed[1])).decode() == get_plotlyjs()
    return text.replace(packed[0], "")


def test_the_page_holds_the_numbers_and_loads_nothing(write_run) -> None:
    run = write_run()
    file = report.write(run)
    assert file == run / "report.html" and (run / "report.md").is_file()
    text = without_library(file.read_text())
    assert not re.search(r"""(?:src|href)=(?!"(?:#|data:))|url\(|@import|https?://|fetch\(""", text)
    summary = summary_of()
    for setting in summary["settings"].values():
        for name in ("last", "avg", "forgetting", "bwt"):
            assert f">{setting['metrics'][name]:.1f}<" in text
    for part in ("Chaudhry et al. 2018", "rendered", "animation", "prefers-color-scheme", "train.seed", "2.13.0"):
        assert part in text
    places, drawn = re.findall(r'data-figure="(\w+)"', text), figures_of(text)
    assert len(places) == len(set(places)) == len(drawn) == 3 + 2 + 1 + 1


def test_names_from_data_cannot_become_markup(write_run) -> None:
    run = write_run()
    summary = summary_of()
    summary["notes"] = ["<script>alert(1)</script>"]
    summary["tasks"][0]["name"] = "</script><script>alert(2)</script><!--"
    (run / "summary.json").write_text(json.dumps(summary))
    text = report.write(run).read_text()
    assert "<script>alert" not in text and "<b>food</b>" not in text
    name = figures_of(text)[0]["layout"]["xaxis"]["ticktext"][0]
    assert name == "1 &lt;/script&gt;&lt;script&gt;alert(2)&lt;/script&gt;&lt;!--"  # plotly.js reads HTML in texts
    lines = (run / "report.md").read_text().splitlines()
    assert "- \\<script>alert(1)\\</script>" in lines and any("\\<b>food\\</b>, plant" in line for line in lines)


class _Elements(HTMLParser):
    """Parses a page: ``found`` has each element with the names of its attributes; ``text`` has its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = ["{{ 7 * 7 }}", "{% include 'page.css' %}", "{# gone #}", '" onmouseover="alert(1)', "' </script><b>&amp;"]


def test_hostile_names_are_shown_as_text_wherever_they_stand(write_run) -> None:
    plain, run = write_run("plain"), write_run("hostile")
    summary, config = (json.loads((run / name).read_text()) for name in ("summary.json", "config.json"))
    summary["notes"] = HOSTILE
    for number, name in enumerate(HOSTILE):
        summary["tasks"][number] |= {"name": name, "classes": [name, "plant"]}
    summary["method"] = summary["formulas"]["last"] = config["a key"] = HOSTILE[3]
    config[HOSTILE[0]] = {HOSTILE[4]: HOSTILE[1]}
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "config.json").write_text(json.dumps(config))
    pages = [_Elements(without_library(report.write(folder).read_text())) for folder in (plain, run)]
    assert all(name in pages[1].text for name in HOSTILE)
    # Four more notes and two more keys of the config: each is a paragraph or a row, and nothing else is new.
    extra = Counter(pages[1].found) - Counter(pages[0].found)
    assert extra == {("p", ()): 4, ("tr", ()): 2, ("th", ("scope", "class")): 2, ("td", ("class",)): 2}
    assert not Counter(pages[0].found) - Counter(pages[1].found)


def test_a_value_that_a_template_lacks_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<p>{{ name }}</p>")
    template = make_environment(tmp_path).get_template("a.html")
    assert template.render(name="<&") == "<p>&lt;&amp;</p>"
    with pytest.raises(UndefinedError, match="'name' is undefined"):
        template.render()


@pytest.mark.parametrize(
    ("packages", "call"), [(("torch",), "report.write"), (("torch", "jinja2", "plotly"), "report.read_run")]
)
def test_a_report_needs_no_torch_and_reading_a_run_nothing_to_draw(write_run, packages: tuple, call: str) -> None:
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({packages}))\n"  # None: importing it fails
        f"from mmcl_fast import report; {call}({str(write_run())!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_matrix_shows_each_number_once_learned_or_not() -> None:
    run = summary_of()
    coloured, grey, *numbers = heatmaps.accuracy_heatmap(run, "given")["data"]
    R = run["settings"]["given"]["R"]
    for t, row in enumerate(R):
        for i, value in enumerate(row):
            assert (coloured["z"][t][i], grey["z"][t][i]) == ((value, None) if i < t else (None, value))
    written = {(y, x): text for layer in numbers for x, y, text in zip(layer["x"], layer["y"], layer["text"])}
    assert written == {(t, i): f"{value:.0f}" for t, row in enumerate(R) for i, value in enumerate(row)}


def luminance(colour: str) -> float:
    """Return the relative luminance of #rrggbb or #rgb (WCAG 2)."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours (WCAG 2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_numbers_in_cells_stand_out() -> None:
    for step, rgb in enumerate(sample_colorscale(plot_style.COLORSCALE, 101, colortype="tuple")):
        cell = "#" + "".join(f"{round(255 * c):02x}" for c in rgb)
        assert contrast(heatmaps.black_or_white(rgb), cell) > 4.5, step


def test_colours_stand_out_in_both_schemes() -> None:
    style = (Path(figures.__file__).parent / "page.css").read_text()
    schemes = [dict(re.findall(r"--([\w-]+): (#\w+)", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)]
    assert len(schemes) == 2 and schemes[0].keys() == schemes[1].keys()
    for colours in schemes:
        for name in ("ink", "soft", "mark"):
            assert min(contrast(colours[name], colours[under]) for under in ("card", "paper")) > 4.5, name
        assert contrast(colours["ink"], colours["note"]) > 4.5
        for n in range(plot_style.NUM_COLOURS):
            assert contrast(colours[f"c{n}"], colours["card"]) > 3, n


def test_means_are_over_the_tasks_seen() -> None:
    R = [[1.0, 2.0, 3.0], [90.0, 0.0, 0.0], [80.0, 60.0, 0.0], [70.0, None, 50.0]]
    assert figures.mean_over_seen(R) == [None, 90.0, 70.0, None]
    assert figures.mean_over_seen(R, [0, 2]) == [None, 90.0, 80.0, 60.0]


def test_runs_side_by_side_name_what_differs(write_run, tmp_path: Path) -> None:
    runs = [write_run("a"), write_run("b", seed=3, method="ridge")]
    out = report.write(runs, tmp_path / "pages" / "both.html")
    text = without_library(out.read_text())
    assert "2 keys." in text and "method.name" in text and "ridge, seed 3" in text
    assert re.findall(r"<h2[^>]*>([^<]+)", text) == ["All runs", "comm, seed 0", "ridge, seed 3"]
    lines = out.with_suffix(".md").read_text().splitlines()
    assert [line for line in lines if line.startswith("## ")] == ["## All runs", "## comm, seed 0", "## ridge, seed 3"]


def test_runs_of_one_name_are_told_apart_by_folder(write_run, tmp_path: Path) -> None:
    text = report.write([write_run("one"), write_run("two")], tmp_path / "both.html").read_text()
    assert "comm, seed 0 (one)" in text and "comm, seed 0 (two)" in text


def test_a_run_without_contributions_or_unseen_tasks_has_its_page(write_run) -> None:
    run = write_run()
    summary = summary_of()
    summary["contributions"] = None
    for setting in summary["settings"].values():
        setting["R"] = [[v if i < t else None for i, v in enumerate(row)] for t, row in enumerate(setting["R"])]
        setting["metrics"]["fwt"] = None
    (run / "summary.json").write_text(json.dumps(summary))
    assert len(figures_of(report.write(run).read_text())) == 6


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", None, "not finished"),
        ("summary.json", "{", r"summary\.json: not readable"),
        ("summary.json", "{}", "names no tasks"),
        ("summary.json", "[]", r"summary\.json: not a JSON object"),
        ("summary.json", "[" * 100_000, r"summary\.json: not readable"),
        ("config.json", "[1]", r"config\.json: not a JSON object"),
        ("environment.json", "3", r"environment\.json: not a JSON object"),
        ("metrics.jsonl", '{"event": "start"}\nbroken\n', r"metrics\.jsonl:2: not readable"),
        ("metrics.jsonl", '{"event": "start"}\n[]\n', r"metrics\.jsonl:2: not an event"),
        ("metrics.jsonl", '{"seconds": {"prompts": 1}}\n', r"metrics\.jsonl:1: not an event.*event"),
        ("metrics.jsonl", '{"event": "task", "seconds": {"prompts": 1}}\n', r"metrics\.jsonl:1: .*task"),
        ("metrics.jsonl", '{"event": "start", "seconds": {"prompts": "1"}}', r"jsonl:1: .*seconds\.prompts"),
        ("metrics.jsonl", '{"event": "start", "seconds": [1]}\n', r"metrics\.jsonl:1: .*seconds"),
        ("metrics.jsonl", '{"event": "start", "counts": {"prompts": 0.5}}\n', r"jsonl:1: .*counts\.prompts"),
        ("metrics.jsonl", '{"event": "contributions", "after": 1, "matrix": []}\n', r"jsonl:1: .*modalities"),
        (
            "metrics.jsonl",
            '{"event": "contributions", "after": 1, "modalities": ["text"], "matrix": []}\n',
            r"jsonl:1: .*not 1 rows of 1",
        ),
        (
            "metrics.jsonl",
            '{"event": "evaluation", "after": 1, "setting": "given", "by_class": [3]}\n',
            r"jsonl:1: .*by_class\.0",
        ),
        (
            "metrics.jsonl",
            '{"event": "evaluation", "after": 1, "setting": "given", "taken_for": [[[["cat", 1]]]]}\n',
            r"jsonl:1: .*taken_for\.0\.0\.0",
        ),
        (
            "metrics.jsonl",
            '{"event": "unknown", "after": 1, "modality": "text", "known": 1, "new": 1, "auroc": 1, "flagged": [1]}\n',
            r"jsonl:1: .*flagged",
        ),
        ("samples.safetensors", "no safetensors", r"samples\.safetensors: not readable.*--resume"),
        ("metrics.jsonl", "\udcff\n", r"metrics\.jsonl:1: not readable"),
    ],
)
def test_a_run_that_cannot_be_read_is_named(write_run, name: str, content: str | None, message: str) -> None:
    run = write_run()
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(RunError, match=message) as caught:
        report.write(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("tasks", {}),
        ("tasks.0", 3),
        ("tasks.2.name", None),
        ("tasks.2.modality", ...),
        ("tasks.2.classes", "cat"),
        ("tasks.2.classes.1", 5),
        ("settings", []),
        ("settings.given", 1),
        ("settings.given.R", ...),
        ("settings.given.R.1", [1.0]),
        ("settings.given.R.1.0", "1"),
        ("settings.given.R", [[1.0] * 6]),
        ("settings.given.metrics", ...),
        ("settings.given.metrics.last", "9"),
        ("settings.given.metrics.per_modality", [1]),
        ("settings.given.metrics.per_modality.image", 1),
        ("settings.given.metrics.per_modality.image.last", "9"),
        ("formulas", None),
        ("notes", "one"),
        ("contributions", [1]),
        ("contributions.modalities", ...),
        ("contributions.matrix.0", 1),
        ("contributions.matrix.0", [0.5]),
        ("contributions.matrix.0.1", None),
    ],
)
def test_a_summary_with_a_part_missing_or_wrong_is_named(write_run, path: str, value: object) -> None:
    run = write_run()
    summary = place = json.loads(json.dumps(summary_of()))
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in way:
        place = place[part]
    place[last] = value
    if value is ...:
        del place[last]
    (run / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(RunError, match=r"summary\.json: ") as caught:
        report.write(run)
    line = str(caught.value)
    assert "\n" not in line and "--resume" in line and path.split(".")[0] in line


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}


def test_terminal_tables_keep_the_brackets_of_formulas() -> None:
    from rich.console import Console

    from mmcl_fast.report.console import print_tables

    console = Console(width=160, record=True, file=open("/dev/null", "w"))
    print_tables(summary_of(), console)
    text = console.export_text()
    assert "R[T,i] - R[i,i]" in text and "rendered" in text and f"{len(TASKS)} depth-0" in text
    assert "given_masked" in text and "77.5" in text
