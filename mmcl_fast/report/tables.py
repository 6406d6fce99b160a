"""The rows of ``results.collect`` as tables: Markdown, LaTeX, and CSV with every number."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from typing import Any

from mmcl_fast.report.console import ABOUT

METRICS = ("last", "avg", "forgetting", "bwt", "fwt")
COMPARED = ("last", "avg", "forgetting")
NONE = "–"
LATEX = {
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
NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?)(?: ± (\d+(?:\.\d+)?))?")


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column is the rows' titles."""

    title: str
    head: list[str]
    rows: list[list[str]]


def tables(results: dict[str, Any]) -> list[Table]:
    """For each setting its metrics; differences to the reference where labels are not masked; ``last`` by modality."""
    rows = results["rows"]
    settings = list(dict.fromkeys(name for row in rows for name in row["statistics"]))
    out = []
    for setting in settings:
        body = [
            [row["title"], str(len(row["cells"])), *(mean(_of(row, setting, metric)) for metric in METRICS)]
            for row in rows
        ]
        out.append(Table(f"{setting}, in %: {ABOUT.get(setting, setting)}", ["", "seeds", *METRICS], body))
    for setting in (name for name in settings if not name.endswith("_masked")):
        body = []
        for row in rows:
            found = [(_of(row, setting, metric) or {}).get("difference") for metric in COMPARED]
            if any(found):
                count = next(d["difference"]["n"] for d in found if d)
                body.append([row["title"], str(count), *(cell for d in found for cell in _difference(d))])
        if body:
            head = [cell for metric in COMPARED for cell in (metric, "p")]
            out.append(
                Table(
                    f"{setting}: difference to {results['reference']} on the same seeds, in points",
                    ["", "seeds", *head],
                    body,
                )
            )
    for setting in settings[:1]:
        modalities = list(
            dict.fromkeys(m for row in rows for m in row["statistics"].get(setting, {}).get("per_modality", {}))
        )
        body = [[row["title"], *(mean(_of(row, setting, "last", m)) for m in modalities)] for row in rows]
        out.append(Table(f"last by modality, {setting}, in %", ["", *modalities], body))
    return out


def explanations(results: dict[str, Any]) -> list[str]:
    """What the columns mean."""
    share = f"{100 * results['confidence']:g} %"
    return [
        *(f"{name}: {text}" for name, text in results["formulas"].items()),
        f"±: half of Student's {share} interval of the mean over seeds, t sd / sqrt(n), sd with n - 1 below. A seed "
        "fixes the order of the tasks and every draw; the interval says nothing of other data.",
        "p: of the paired t-test / of the sign-flip permutation test over seeds, two-sided, not corrected for the "
        "number of rows; n seeds give the latter at least 2 / 2^n.",
    ]


def markdown(results: dict[str, Any]) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("\\", "\\\\").replace("|", "\\|") for cell in cells) + " |"

    parts = []
    for table in tables(results):
        rule = "|---" + "|---:" * (len(table.head) - 1) + "|"
        parts.append("\n".join([f"**{table.title}**", "", line(table.head), rule, *map(line, table.rows)]))
    parts.append("\n".join(f"- {text}" for text in [*explanations(results), *results["notes"]]))
    if results["failed"]:
        parts.append("Failed:\n\n" + "\n".join(f"- {name}: {fault}" for name, fault in results["failed"].items()))
    return "\n\n".join(parts) + "\n"


def latex(results: dict[str, Any]) -> str:
    """Tables for a document with the package booktabs."""
    parts = [r"% \usepackage{booktabs}"]
    for table in tables(results):
        lines = [" & ".join(map(_latex, cells)) + r" \\" for cells in (table.head, *table.rows)]
        parts.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"  \centering",
                    rf"  \caption{{{_latex(table.title)}}}",
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
    parts.append("\n".join(f"% {text}" for text in [*explanations(results), *results["notes"]]))
    return "\n\n".join(parts) + "\n"


def csv_text(results: dict[str, Any]) -> str:
    """A line for each row, setting, modality (empty: all tasks) and metric; numbers unrounded."""
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
                for metric, said in values.items():
                    said = said or {}
                    pair = said.get("difference") or {}
                    gap = pair.get("difference") or {}
                    lines.writerow(
                        [
                            row["title"],
                            setting,
                            modality,
                            metric,
                            said.get("n", len(row["cells"])),
                            *(said.get(key) for key in ("mean", "sd", "low", "high")),
                            *(gap.get(key) for key in ("mean", "low", "high")),
                            pair.get("t_p"),
                            pair.get("permutation_p"),
                        ]
                    )
    return out.getvalue()


def mean(said: dict[str, Any] | None, sign: str = "") -> str:
    """``89.3 ± 0.4`` of an interval; ``sign``: "+" to write it before positive numbers."""
    if said is None:
        return NONE
    half = "" if said["high"] is None else f" ± {said['high'] - said['mean']:.1f}"
    return f"{said['mean']:{sign}.1f}{half}"


def _difference(pair: dict[str, Any] | None) -> tuple[str, str]:
    if pair is None:
        return NONE, NONE
    return mean(pair["difference"], "+"), f"{_p(pair['t_p'])} / {_p(pair['permutation_p'])}"


def _p(value: float | None) -> str:
    return NONE if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _of(row: dict[str, Any], setting: str, metric: str, modality: str | None = None) -> dict[str, Any] | None:
    found = row["statistics"].get(setting, {})
    return (found if modality is None else found.get("per_modality", {}).get(modality, {})).get(metric)


def _latex(text: str) -> str:
    number = NUMBER.fullmatch(text)
    if number:
        return f"${number[1]} \\pm {number[2]}$" if number[2] else f"${number[1]}$"
    return "".join(LATEX.get(c, c) for c in text)
