"""Whether each baseline does what its authors report of it: two rows of a sweep beside each other, on the same seeds.

    python benchmarks/cifar.py package cifar10
    mmcl-fast compare cifar10.toml --seeds 0..2 --out runs/cifar10 --methods "$(python benchmarks/published.py --rows)"
    python benchmarks/published.py runs/cifar10 benchmarks/results/published-cifar10

writes, as Markdown, ``last`` with all classes competing and the mean accuracy among a task's own classes (the task is
told, as in the papers of EWC and LwF), both of the last checkpoint, and their differences with Student's intervals.
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

ALONE = ("ridge", "comm", "joint", "zero_shot", "finetune", "dns")  # in no pair, to be read beside the others
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
    "RanPAC: random features, against ridge on the same": ("ranpac:source=zq", "ridge:source=zq"),
    "RanPAC: first phase, against none": ("ranpac", "ranpac:source=zq"),
}
ROWS = tuple(dict.fromkeys([name for pair in PAIRS.values() for name in pair] + [*ALONE]))


def with_task_told(run: Path) -> float:
    """Mean over tasks, in %, of the accuracy on the test samples with only the task's classes competing."""
    config = read_run_config(run)
    learner = Learner.load(run, device="cpu", cache_dir=config.train.cache, cache_gb=config.train.cache_gb)
    shares = []
    for task in make_stream(config, run):
        samples = task.test
        tokens = learner.tokens(samples, task.name, keep=True)
        scores = learner.method.scores(tokens, task.modality, learner.classes, given=True)
        keys = dict(zip(task.classes, task.class_ids))
        place = learner.classes.ids
        own = torch.tensor([place[key] for key in task.class_ids])
        right = torch.tensor([place[keys[s.label]] for s in samples])
        shares.append((evaluation.best_columns(scores.cpu(), own) == right).double().mean())
    return 100 * float(torch.stack(shares).mean())


def spread(found: Interval, sign: str = "") -> str:
    return tables.mean(dataclasses.asdict(found), sign)


def measure(sweep: Path) -> dict[str, dict[str, dict[int, float]]]:
    """Row -> "last" or "told" -> seed -> %."""
    found = {}
    for row in json.loads((sweep / "results.json").read_text())["rows"]:
        if row["title"] in ROWS:
            cells = {cell["seed"]: cell for cell in row["cells"]}
            found[row["title"]] = {
                "last": {seed: cell["settings"]["agnostic"]["metrics"]["last"] for seed, cell in cells.items()},
                "told": {seed: with_task_told(sweep / cell["folder"]) for seed, cell in cells.items()},
            }
            print(row["title"], *(spread(interval(list(v.values()))) for v in found[row["title"]].values()), flush=True)
    if missing := [name for name in ROWS if name not in found]:
        raise SystemExit(f"{sweep}: no row {', '.join(missing)}; learn those of python benchmarks/published.py --rows")
    return found


def report(found: dict[str, dict[str, dict[int, float]]]) -> str:
    lines = ["| | last | mean over tasks, the task told |", "|---|---|---|"]
    for name in sorted(found, key=lambda name: -interval(list(found[name]["last"].values())).mean):
        last, told = (spread(interval(list(found[name][k].values()))) for k in ("last", "told"))
        lines.append(f"| {name} | {last} | {told} |")
    lines += ["", "| differences | last | the task told |", "|---|---|---|"]
    for title, (one, other) in PAIRS.items():
        cells = []
        for key in ("last", "told"):
            a, b = found[one][key], found[other][key]
            seeds = sorted(a.keys() & b.keys())
            cells.append(spread(paired([a[s] for s in seeds], [b[s] for s in seeds]).difference, "+"))
        lines.append(f"| {title} (`{one}`, `{other}`) | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, nargs="?", help="the folder of the comparison")
    parser.add_argument("out", type=Path, nargs="?", help="the files to write, without their ending")
    parser.add_argument("--rows", action="store_true", help="print what --methods is to be, and do nothing")
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
