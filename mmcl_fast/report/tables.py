"""The results of a sweep as tables: Markdown, LaTeX, and CSV with every number."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmcl_fast.report.labels import explain_setting, format_seconds, format_state, setting_label

METRICS = ("last", "avg", "forgetting", "bwt", "fwt")
SEED_METRICS = ("avg", "forgetting")  # compared beside ``last``; their intervals are over seeds alone
COST_METRICS = {"fixed": "fixed_bytes", "of_classes": "bytes_of_classes"}  # other costs keep their names in the CSV
COSTS = ("fixed", "a class", "seconds")
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
COST_COLUMNS = (
    "fixed, a class: bytes of the tensors that the method keeps, without the frozen encoder. fixed is what all classes "
    "share, a class is what is kept for a single one. +data: it also needs the data of all tasks. seconds: of learning "
    "all tasks; the median over seeds, if there are several. Decoding, the frozen trunk, evaluation and checkpoints "
    "are left out, because they are the same for all methods. Runs that are learned at once slow each other."
)
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

    First come the metrics and costs of each setting. The first one has the calibration error too. Then come the
    differences to the reference in each setting that is not masked, and ``last`` by modality in the first setting.

    Args:
        results: as ``results.collect`` returns it.
    """
    rows = results["rows"]
    settings = list(dict.fromkeys(name for row in rows for name in row["statistics"]))
    about = {name: _about_columns(rows, name) for name in ("features", "tuned")}
    shown = [name for name, cells in about.items() if any(cell != NONE for cell in cells)]
    out = []
    for number, setting in enumerate(settings):
        metrics = METRICS if number else (*METRICS, "ece")
        body = [
            [
                row["title"],
                *(about[name][i] for name in shown),
                str(len(row["cells"])),
                *(format_mean(_find(row, setting, metric)) for metric in metrics),
                *_format_cost(row.get("cost")),
            ]
            for i, row in enumerate(rows)
        ]
        title = f"{setting_label(setting)}, in %: {explain_setting(setting)}"
        out.append(TextTable(title, ["", *shown, "seeds", *metrics, *COSTS], body))
    for setting in (name for name in settings if not name.endswith("_masked")):
        out += _difference_tables(results, setting)
    for setting in settings[:1]:
        modalities = list(
            dict.fromkeys(m for row in rows for m in row["statistics"].get(setting, {}).get("per_modality", {}))
        )
        body = [
            [
                row["title"],
                *(format_mean(_find(row, setting, "last", m)) for m in modalities),
                *_format_cost(row.get("cost")),
            ]
            for row in rows
        ]
        out.append(TextTable(f"last by modality, {setting}, in %", ["", *modalities, *COSTS], body))
    return out


def _about_columns(rows: Sequence[dict[str, Any]], name: str) -> list[str]:
    """Return what each row's classifier reads ("features"), or in how many trials it was tuned ("tuned")."""
    if name == "features":
        return [row.get("features") or NONE for row in rows]
    if not any(row.get("tuned") for row in rows):
        return [NONE for _ in rows]
    return [f"{row['tuned'].get('trials', '?')} trials" if row.get("tuned") else "no" for row in rows]


def _difference_tables(results: dict[str, Any], setting: str) -> list[TextTable]:
    """Return the tables of differences to the reference: of ``last``, and of the metrics over seeds alone."""
    found = [
        (row, {m: (_find(row, setting, m) or {}).get("difference") for m in ("last", *SEED_METRICS)})
        for row in results["rows"]
    ]
    out = []
    body = []
    for row, tests in found:
        if test := tests["last"]:
            gap = test["difference"]
            tested = f"{gap['samples']} in {gap['groups']}" if "samples" in gap else "seeds alone"
            cells = [str(gap["n"]), tested, *_format_difference(test), "yes" if test["clear"] else "no"]
            body.append([row["title"], *cells, *_format_cost(row.get("cost"))])
    if body:
        title = f"{setting}: difference to {results['reference']} in last, paired by seed and test sample, in points"
        head = ["", "seeds", "test samples in groups", "last", "p / Holm's p", "clear", *COSTS]
        out.append(TextTable(title, head, body))
    body = []
    for row, tests in found:
        others = [tests[metric] for metric in SEED_METRICS]
        if any(others):
            count = next(test["difference"]["n"] for test in others if test)  # all are paired on the same seeds
            cells = [cell for test in others for cell in _format_difference(test)]
            body.append([row["title"], str(count), *cells, *_format_cost(row.get("cost"))])
    if body:
        head = [cell for metric in SEED_METRICS for cell in (metric, "p / Holm's p")]
        title = f"{setting}: difference to {results['reference']} in {' and '.join(SEED_METRICS)}, over seeds alone"
        out.append(TextTable(title, ["", "seeds", *head, *COSTS], body))
    return out


def explain_columns(results: dict[str, Any]) -> list[str]:
    """Return a line for each column and sign of the tables that says what it means."""
    share = f"{100 * results['confidence']:g} %"
    return [
        *(f"{name}: {text}" for name, text in results["formulas"].items()),
        f"±, of last: half the width of the {share} interval over seeds and test samples. It comes from a bootstrap in "
        "which a test sample has one weight for all seeds (mmcl_fast.learning.sample_bootstrap). Samples made from one "
        "source are one group. Where runs kept no predictions, the interval is over seeds alone.",
        f"±, of all other metrics: half the width of Student's {share} interval over seeds alone: t sd / sqrt(n), "
        "where sd divides by n - 1. A seed fixes the order of the tasks and every draw.",
        "No interval says anything about other data. Where all answers of all seeds are right, or all are wrong, its "
        "width is 0, which is too narrow.",
        "p: two-sided, of the same bootstrap for last, else of the paired t-test over seeds. Holm's p is corrected for "
        f"all tests of the table (Holm 1979). clear: Holm's p is below {1 - results['confidence']:.2g}.",
        COST_COLUMNS,
        "features: what the classifier reads: z (embedding), q (the trunk's query) or zq (both). "
        "+4: and embeddings under 4 reading prompts.",
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
    """Return all numbers of a sweep unrounded: a line for each row, setting, modality (empty: all) and metric.

    The costs of a row are lines without a setting.
    """
    statistics = ["seeds", "mean", "sd", "low", "high", "over", "samples", "groups"]
    tests = ["difference", "difference_low", "difference_high", "p", "holm_p", "clear", "t_p", "permutation_p"]
    out = io.StringIO()
    lines = csv.DictWriter(out, ["row", "setting", "modality", "metric", *statistics, *tests], lineterminator="\n")
    lines.writeheader()
    for row in results["rows"]:
        for setting, found in row["statistics"].items():
            groups = {"": {k: v for k, v in found.items() if k != "per_modality"}, **found["per_modality"]}
            for modality, values in groups.items():
                for metric, interval in values.items():
                    cells = {"row": row["title"], "setting": setting, "modality": modality, "metric": metric}
                    cells |= {"seeds": len(row["cells"])}
                    if interval:
                        cells |= {key: interval.get(key) for key in statistics[1:]} | {"seeds": interval["n"]}
                        if pair := interval.get("difference"):
                            gap = pair["difference"]
                            cells |= {key: pair.get(key) for key in tests}
                            cells |= dict(zip(tests, (gap["mean"], gap["low"], gap["high"])))
                    lines.writerow(cells)
        cost = row.get("cost") or {}
        for name in ("fixed", "of_classes", "classes", "seconds") if row["cells"] else ():
            cells = {"row": row["title"], "metric": COST_METRICS.get(name, name), "mean": cost.get(name)}
            lines.writerow(cells | {"seeds": len(row["cells"])})
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
    return f"{round(interval['mean'], 1) + 0.0:{sign}.1f}{half}"  # + 0.0 makes -0.0 positive


def _format_difference(pair: dict[str, Any] | None) -> tuple[str, str]:
    """Return a difference with its interval, and its p before and after Holm's correction."""
    if pair is None:
        return NONE, NONE
    return format_mean(pair["difference"], "+"), f"{_format_p(pair['p'])} / {_format_p(pair['holm_p'])}"


def _format_cost(cost: dict[str, Any] | None) -> tuple[str, str, str]:
    """Return the cells of ``COSTS``."""
    if cost is None:
        return NONE, NONE, NONE
    return *format_state(cost), format_seconds(cost["seconds"])


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
