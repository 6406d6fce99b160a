"""The demo stream in random order, several seeds: COMM, its ablations and the methods beside it, as one table.

    python benchmarks/demo_table.py --seeds 0 1 2 --out benchmarks/results/demo-cpu.md

A seed fixes the order of tasks, the prompts' start and every draw. The numbers are of the test split; choices were
made on the validation split (``--split val``). Writes the table as Markdown and every R matrix as JSON beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import time
from pathlib import Path

import torch

from mmcl_fast.encoders import load_encoder
from mmcl_fast.learning import Learner, metrics
from mmcl_fast.methods import METHODS
from mmcl_fast.methods.comm import Comm
from mmcl_fast.streams import Stream

ROWS: list[tuple[str, str, dict]] = [
    ("zero_shot", "zero_shot", {}),
    ("finetune", "finetune", {}),
    ("ridge on q", "ridge", {}),
    ("ridge on [z ; q], bare head", "ridge", {"source": "zq"}),
    ("COMM", "comm", {}),
    ("COMM, prompts = none", "comm", {"prompts": False}),
    ("COMM, no re-alignment", "comm", {"realignment": "off"}),
    ("COMM, closed-form re-alignment only", "comm", {"realignment": "closed"}),
    ("COMM, no intra-modal aggregation", "comm", {"aggregation": False}),
    ("COMM, no self-regularisation and no intra-modal aggregation", "comm",
     {"aggregation": False, "self_regularisation": 0.0}),
    ("COMM, no contribution blending", "comm", {"blending": False}),
    ("joint (all data at once)", "joint", {}),
]


class Shared:
    """Prompts learned once for all rows that learn them alike: re-alignment comes after them and never moves them.

    A row's own switches of re-alignment leave the prompts as they are, so training them again would give the same
    numbers (a run is fixed by its seed) at the same cost.
    """

    def __init__(self) -> None:
        self.known: dict[tuple, torch.Tensor] = {}
        self.original = Comm._learn_prompt
        self.spared = False  # whether the run under way was spared some learning: its time means nothing then

    def learn_prompt(self, method: Comm, data, *rest) -> None:
        relevant = [(f.name, getattr(method.options, f.name)) for f in dataclasses.fields(method.options)
                    if f.name in PROMPT_OPTIONS]
        key = (method.seed, data.index, *relevant)
        if key in self.known:
            self.spared = True
        else:
            self.original(method, data, *rest)
            self.known[key] = method.bank.prompts[data.modality]
        method.bank.prompts[data.modality] = self.known[key].clone()


PROMPT_OPTIONS = ("prompt_length", "epochs", "batch_size", "lr", "self_regularisation", "aggregation", "lambda_max",
                  "sigma", "blending", "relevance", "tau", "relevance_penalty")


def one_run(encoder, method: str, options: dict, seed: int, args: argparse.Namespace) -> dict:
    stream = Stream.demo(args.demo, classes_per_task=args.classes_per_task, order="random", seed=seed)
    learner = Learner(encoder, method, options=options, seed=seed, cache_dir=args.cache)
    T, started = len(stream), time.perf_counter()
    cumulative = METHODS[method].cumulative
    R: dict[str, list] = {s: [[None] * T] for s in ("agnostic", "given", "given_masked")}
    for task in stream:
        learner.learn(task)
        final = task.index + 1 == T
        row = {}
        if final or not cumulative:
            # `given` costs a second pass of the head: after the last task only
            result = learner.evaluate(stream.seen, split=args.split, setting="both" if final else "agnostic")
            row = {s: result.accuracy(s) + [None] * (T - task.index - 1) for s in result.correct}
        for setting, rows in R.items():
            rows.append(row.get(setting, [None] * T))
    modalities = [t.modality for t in stream.tasks]
    return {"R": R, "order": [t.name for t in stream.tasks], "seconds": time.perf_counter() - started,
            "metrics": {s: metrics.summarize(rows, result.counts, modalities) for s, rows in R.items()}}


def cell(values: list[float | None]) -> str:
    if any(v is None for v in values):
        return "–"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def table(results: dict[str, list[dict]]) -> str:
    columns = [("last, agnostic", "agnostic", "last"), ("last, given", "given", "last"),
               ("last, given, own labels", "given_masked", "last"), ("avg, agnostic", "agnostic", "avg"),
               ("forgetting, agnostic", "agnostic", "forgetting")]
    lines = ["| | " + " | ".join(c[0] for c in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for title, runs in results.items():
        lines.append(f"| {title} | " + " | ".join(cell([r["metrics"][s][m] for r in runs]) for _, s, m in columns) + " |")
    return "\n".join(lines)


def modality_table(results: dict[str, list[dict]]) -> str:
    first = next(iter(results.values()))[0]["metrics"]["agnostic"]["per_modality"]
    names = sorted(first)
    lines = ["| last, agnostic | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for title, runs in results.items():
        cells = [cell([r["metrics"]["agnostic"]["per_modality"][m]["last"] for r in runs]) for m in names]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", choices=("test", "val"), default="test")
    parser.add_argument("--classes-per-task", type=int, default=4)
    parser.add_argument("--rows", nargs="*", help="only the rows whose title contains one of these")
    parser.add_argument("--keep", type=Path, help="a .json of an earlier call; its rows stand beside this call's")
    parser.add_argument("--demo", type=Path, help="folder of the demo media")
    parser.add_argument("--cache", type=Path, default=Path(".cache/trunk"))
    parser.add_argument("--out", type=Path, help="write the table here (.md) and the matrices beside it (.json)")
    args = parser.parse_args()
    shared = Shared()
    Comm._learn_prompt = lambda method, data, *rest: shared.learn_prompt(method, data, *rest)
    encoder = load_encoder("embedded", device="cuda" if torch.cuda.is_available() else "cpu")
    results: dict[str, list[dict]] = {}
    if args.keep:
        results = json.loads(args.keep.read_text())
    for title, method, options in ROWS:
        if args.rows and not any(part in title for part in args.rows):
            continue
        results[title] = []
        for seed in args.seeds:
            shared.spared = False
            results[title].append(one_run(encoder, method, options, seed, args))
            if shared.spared:
                results[title][-1]["seconds"] = None
        print(f"{title}: {cell([r['metrics']['agnostic']['last'] for r in results[title]])}", flush=True)
    results = {title: results[title] for title, _, _ in ROWS if title in results}
    where = torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    text = (f"Demo stream, random order, {args.classes_per_task} classes a task, seeds {args.seeds}, {args.split} "
            f"split, mean ± standard deviation over seeds, %. Depth maps are rendered, videos are authored animation. "
            f"Measured on {where}, torch {torch.__version__}, Python {platform.python_version()}.\n\n"
            f"{table(results)}\n\n{modality_table(results)}\n")
    print("\n" + text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text)
        args.out.with_suffix(".json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
