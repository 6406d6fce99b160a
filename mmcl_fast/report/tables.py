"""The results of a sweep as tables: Markdown, LaTeX, and CSV with every number."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from typing import Any

from mmcl_fast.report.labels import explain_setting, setting_label

METRICS = ("last", "avg", "forgetting", "bwt", "fwt")
COMPARED_METRICS = ("last", "avg", "forgetting")
NONE = "–"
LATEX_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "–": "--",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}
# A number, with or without ± and a second one.
NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?)(?: ± (\d+(?:\.\d+)?))?")


@dataclass(frozen=True)
class TextTable:
    """A titled table of text; the first column names the rows."""

    title: str
    head: list[str]
    rows: list[list[str]]


def make_tables(results: dict[str, Any]) -> list[TextTable]:
    """Return the tables of a sweep.

    First come the metrics of each setting. Then come the differences to the reference in each setting that is not
    masked, and ``last`` by modality in the first setting.

    Args:
        results: as ``results.collect`` returns it.
    """
    rows = results["rows"]
    settings = list(dict.fromkeys(name for row in rows for name in row["statistics"]))
    out = []
    for setting in settings:
        body = [
            [row["title"], str(len(row["cells"])), *(format_mean(_find(row, setting, metric)) for metric in METRICS)]
            for row in rows
        ]
        title = f"{setting_label(setting)}, in %: {explain_setting(setting)}"
        out.append(TextTable(title, ["", "seeds", *METRICS], body))
    for setting in (name for name in settings if not name.endswith("_masked")):
        body = []
        for row in rows:
            found = [(_find(row, setting, metric) or {}).get("difference") for metric in COMPARED_METRICS]
            if any(found):
                # A row's metrics are paired on the same seeds: any of them has the count.
                count = next(d["difference"]["n"] for d in found if d)
                body.append([row["title"], str(count), *(cell for d in found for cell in _format_difference(d))])
        if body:
            head = [cell for metric in COMPARED_METRICS for cell in (metric, "p")]
            title = f"{setting}: difference to {results['reference']} on the same seeds, in points"
            out.append(TextTable(title, ["", "seeds", *head], body))
    for setting in settings[:1]:
        modalities = list(
            dict.fromkeys(m for row in rows for m in row["statistics"].get(setting, {}).get("per_modality", {}))
        )
        body = [[row["title"], *(format_mean(_find(row, setting, "last", m)) for m in modalities)] for row in rows]
        out.append(TextTable(f"last by modality, {setting}, in %", ["", *modalities], body))
    return out


def explain_columns(results: dict[str, Any]) -> list[str]:
    """Return a line for each column and sign of the tables that says what it means."""
    share = f"{100 * results['confidence']:g} %"
    return [
        *(f"{name}: {text}" for name, text in results["formulas"].items()),
        f"±: half the width of Student's {share} interval of the mean over seeds: t sd / sqrt(n), where sd divides by "
        "n - 1. A seed fixes the order of the tasks and every draw. The interval says nothing about other data.",
        "p: of the paired t-test / of the sign-flip permutation test over seeds. Both are two-sided and not corrected "
        "for the number of rows. With n seeds the permutation test gives at least 2 / 2^n.",
    ]


def write_markdown(results: dict[str, Any]) -> str:
    """Return the tables of a sweep, the meaning of their columns and the failed cells as Markdown."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("\\", "\\\\").replace("|", "\\|") for cell in cells) + " |"

    parts = []
    for table in make_tables(results):
        rule = "|---" + "|---:" * (len(table.head) - 1) + "|"
        parts.append("\n".join([f"**{table.title}**", "", line(table.head), rule, *map(line, table.rows)]))
    parts.append("\n".join(f"- {text}" for text in [*explain_columns(results), *results["notes"]]))
    if results["failed"]:
        parts.append("Failed:\n\n" + "\n".join(f"- {name}: {fault}" for name, fault in results["failed"].items()))
    return "\n\n".join(parts) + "\n"


def write_latex(results: dict[str, Any]) -> str:
    """Return the tables of a sweep for a LaTeX document that uses the package booktabs."""
    parts = [r"% \usepackage{booktabs}"]
    for table in make_tables(results):
        lines = [" & ".join(map(_escape_latex, cells)) + r" \\" for cells in (table.head, *table.rows)]
        parts.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"  \centering",
                    rf"  \caption{{{_escape_latex(table.title)}}}",
                    rf"  \begin{{tabular}}{{l{'r' * (len(table.head) - 1)}}}",
                    r"    \toprule",
                    f"    {lines[0]}",
                    r"    \midrule",
                    *(f"    {line}" for line in lines[1:]),
                    r"    \bottomrule",
                    r"  \end{tabular}",
                    r"\end{table}",
                ]
            )
        )
    parts.append("\n".join(f"% {text}" for text in [*explain_columns(results), *results["notes"]]))
    return "\n\n".join(parts) + "\n"


def write_csv(results: dict[str, Any]) -> str:
    """Return all numbers of a sweep unrounded: a line for each row, setting, modality (empty: all) and metric."""
    head = [
        "row",
        "setting",
        "modality",
        "metric",
        "seeds",
        "mean",
        "sd",
        "low",
        "high",
        "difference",
        "difference_low",
        "difference_high",
        "t_p",
        "permutation_p",
    ]
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(head)
    for row in results["rows"]:
        for setting, found in row["statistics"].items():
            groups = {"": {k: v for k, v in found.items() if k != "per_modality"}, **found["per_modality"]}
            for modality, values in groups.items():
                for metric, statistics in values.items():
                    statistics = statistics or {}
                    pair = statistics.get("difference") or {}
                    gap = pair.get("difference") or {}
                    lines.writerow(
                        [
                            row["title"],
                            setting,
                            modality,
                            metric,
                            statistics.get("n", len(row["cells"])),
                            *(statistics.get(key) for key in ("mean", "sd", "low", "high")),
                            *(gap.get(key) for key in ("mean", "low", "high")),
                            pair.get("t_p"),
                            pair.get("permutation_p"),
                        ]
                    )
    return out.getvalue()


def format_mean(interval: dict[str, Any] | None, sign: str = "") -> str:
    """Return an interval as ``89.3 ± 0.4``, as ``89.3`` for a single seed, or as ``–`` for None.

    Args:
        interval: the fields of ``statistics.Interval``.
        sign: "+" writes a plus before positive numbers.
    """
    if interval is None:
        return NONE
    half = "" if interval["high"] is None else f" ± {interval['high'] - interval['mean']:.1f}"
    return f"{interval['mean']:{sign}.1f}{half}"


def _format_difference(pair: dict[str, Any] | None) -> tuple[str, str]:
    """Return a difference with its interval, and the two p values."""
    if pair is None:
        return NONE, NONE
    return format_mean(pair["difference"], "+"), f"{_format_p(pair['t_p'])} / {_format_p(pair['permutation_p'])}"


def _format_p(value: float | None) -> str:
    return NONE if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _find(row: dict[str, Any], setting: str, metric: str, modality: str | None = None) -> dict[str, Any] | None:
    """Return the statistics of a metric over all tasks, or over the tasks of one modality."""
    found = row["statistics"].get(setting, {})
    return (found if modality is None else found.get("per_modality", {}).get(modality, {})).get(metric)


def _escape_latex(text: str) -> str:
    """Return text for LaTeX; a number goes into math mode."""
    number = NUMBER.fullmatch(text)
    if number:
        return f"${number[1]} \\pm {number[2]}$" if number[2] else f"${number[1]}$"
    return "".join(LATEX_ESCAPES.get(c, c) for c in text)
