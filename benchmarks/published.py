"""A check of each baseline against its authors' claims: pairs of rows of a sweep, compared on the same seeds.

    python -m benchmarks.cifar package cifar10
    mmcl-fast compare cifar10.toml --seeds 0..2 --out runs/cifar10 --methods "$(python benchmarks/published.py --rows)"
    python benchmarks/published.py runs/cifar10 benchmarks/results/published-cifar10

writes two accuracies of the last checkpoint of each row, as Markdown. ``last`` has all classes competing. The other one
has the classes of the sample's task competing, as in the papers of EWC and LwF, where the task is given. Differences of
the pairs follow, with Student's intervals.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch

from mmcl_fast import Learner
from mmcl_fast.config import read_run_config
from mmcl_fast.learning import evaluation
from mmcl_fast.learning.statistics import Interval, interval, paired
from mmcl_fast.report import tables
from mmcl_fast.runs.make_stream import make_stream

ALONE = ("ridge", "comm", "joint", "zero_shot", "finetune", "dns")  # rows without a pair, for comparison
PAIRS = {
    "EWC: the penalty, against none": ("ewc", "ewc:strength=0"),
    "LwF: distillation, against none": ("lwf", "lwf:distillation=0"),
    "LwF at a larger rate": ("lwf:lr=0.03", "lwf:lr=0.03:distillation=0"),
    "replay against EWC": ("replay", "ewc"),
    "replay against LwF": ("replay", "lwf"),
    "replay: 400 exemplars against 100": ("replay", "replay:budget=100"),
    "replay: herding against reservoir": ("replay:selection=herding", "replay"),
    "DualPrompt against L2P": ("dualprompt", "l2p"),
    "CODA-Prompt against DualPrompt": ("coda_prompt", "dualprompt"),
    "CODA-Prompt: orthogonality, against none": ("coda_prompt", "coda_prompt:orthogonality=0"),
    "S-Prompts against L2P": ("s_prompts", "l2p"),
    "SLCA: alignment, against none": ("slca", "slca:align_epochs=0"),
    "SLCA: prompts learned slowly, against fast": ("slca:align_epochs=0", "slca:lr=0.03:align_epochs=0"),
    "SLCA against neither": ("slca", "slca:lr=0.03:align_epochs=0"),
    "RanPAC: random features, against ridge on the same": ("ranpac:adaptation=none", "ridge"),
    "RanPAC: first phase, against none": ("ranpac", "ranpac:adaptation=none"),
}
ROWS = tuple(dict.fromkeys([name for pair in PAIRS.values() for name in pair] + [*ALONE]))


def accuracy_with_task_given(run: Path) -> float:
    """Return the mean over tasks of the test accuracy in %, with only the task's classes competing."""
    config = read_run_config(run)
    learner = Learner.load(run, device="cpu", cache_dir=config.train.cache, cache_gb=config.train.cache_gb)
    accuracies = []
    for task in make_stream(config, run):
        samples = task.test
        tokens = learner.tokens(samples, task.name, keep=True)
        scores = learner.method.scores(tokens, task.modality, learner.classes, given=True)
        keys = dict(zip(task.classes, task.class_ids))
        ids = learner.classes.ids
        columns = torch.tensor([ids[key] for key in task.class_ids])
        labels = torch.tensor([ids[keys[s.label]] for s in samples])
        accuracies.append((evaluation.best_columns(scores.cpu(), columns) == labels).double().mean())
    return 100 * float(torch.stack(accuracies).mean())


def format_interval(found: Interval, sign: str = "") -> str:
    """Return "mean ± half the interval"; ``sign="+"`` shows the sign of a difference."""
    return tables.format_mean(dataclasses.asdict(found), sign)


def measure(sweep: Path) -> dict[str, dict[str, dict[int, float]]]:
    """Return row -> "last" or "told" (the task is given) -> seed -> accuracy in %."""
    found = {}
    for row in json.loads((sweep / "results.json").read_text())["rows"]:
        name = row.get("name", row["title"])  # sweeps of before had titles alone
        if name in ROWS:
            cells = {cell["seed"]: cell for cell in row["cells"]}
            found[name] = {
                "last": {seed: cell["settings"]["agnostic"]["metrics"]["last"] for seed, cell in cells.items()},
                "told": {seed: accuracy_with_task_given(sweep / cell["folder"]) for seed, cell in cells.items()},
            }
            print(name, *(format_interval(interval(list(v.values()))) for v in found[name].values()), flush=True)
    if missing := [name for name in ROWS if name not in found]:
        raise SystemExit(
            f"{sweep}: no row {', '.join(missing)}; learn the rows that python benchmarks/published.py --rows prints"
        )
    return found


def report(found: dict[str, dict[str, dict[int, float]]]) -> str:
    """Return the two tables as Markdown: the rows by falling ``last``, and the pairs' differences."""
    lines = ["| | last | mean over tasks, the task told |", "|---|---|---|"]
    for name in sorted(found, key=lambda name: -interval(list(found[name]["last"].values())).mean):
        last, told = (format_interval(interval(list(found[name][k].values()))) for k in ("last", "told"))
        lines.append(f"| {name} | {last} | {told} |")
    lines += ["", "| differences | last | the task told |", "|---|---|---|"]
    for title, (one, other) in PAIRS.items():
        cells = []
        for key in ("last", "told"):
            a, b = found[one][key], found[other][key]
            seeds = sorted(a.keys() & b.keys())
            cells.append(format_interval(paired([a[s] for s in seeds], [b[s] for s in seeds]).difference, "+"))
        lines.append(f"| {title} (`{one}`, `{other}`) | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, nargs="?", help="the folder of the comparison")
    parser.add_argument("out", type=Path, nargs="?", help="the files to write, without their ending")
    parser.add_argument("--rows", action="store_true", help="print the value for --methods, and do nothing else")
    args = parser.parse_args()
    if args.rows:
        print(",".join(ROWS))
        return
    if args.out is None or not (args.sweep / "results.json").is_file():
        parser.error("give the --out folder of a finished mmcl-fast compare and the file to write")
    found = measure(args.sweep)
    args.out.with_suffix(".json").write_text(json.dumps(found) + "\n")
    args.out.with_suffix(".md").write_text(report(found))
    print(f"written: {args.out}.md, {args.out}.json")


if __name__ == "__main__":
    main()
