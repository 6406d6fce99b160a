"""A run on paper: time, memory and traffic of learning a very long stream on many GPUs, from rates.

python -m benchmarks.scale [--rates FILE] [--set NAME=VALUE ...] [--measure FILE]

The code's own work is counted. Every other number is an assumption with a name, listed above the tables. ``--rates`` (a
JSON object) and ``--set`` replace assumptions. ``--measure`` writes the ones that can be measured in this process.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from types import SimpleNamespace

import torch

from mmcl_fast.methods.comm.memory import FeatureMemory
from mmcl_fast.methods.comm.method import CommOptions
from mmcl_fast.methods.comm.realignment import trains

WORK = {  # name: (value, note) of the stream and the model: ViT-B/16 with 4 of its 12 blocks in the head
    "classes": (1e6, "C"),
    "samples": (1e9, "N, training"),
    "tests": (1e7, "test samples"),
    "tasks": (1e3, "T"),
    "modalities": (5, "M, equally many tasks each; one is text, which has no mean tokens"),
    "gpus": (64, "W"),
    "dim": (512, "D"),
    "query": (1280, "Dq"),
    "tokens": (197, "of a sample, at the cut"),
    "width": (768, "of a token"),
    "trunk_flop": (23.3e9, "8 blocks, a sample, forward: 24 tokens width^2 + 4 tokens^2 width each"),
    "head_flop": (11.6e9, "4 blocks"),
    "epochs": (20, ""),
    "batch": (2048, "global"),
    "blocks": (4, "J"),
}
RATES = {  # name: (value, note); assumptions until a measurement takes their place
    "decode": (2000, "samples/s a GPU: 16 cores at 125 JPEGs/s"),
    "flops": (240e12, "a GPU in bf16: 30 % of 790e12, which an H200 was measured to reach in plain products"),
    "flops64": (0.3e12, "a GPU's share of its machine's cores, float64 products"),
    "gpu_flops64": (20e12, "a GPU in float64: 30 % of 67e12, which an H200's data sheet says"),
    "storage": (2e9, "bytes/s a GPU, from and to the file system that all share"),
    "network": (20e9, "bytes/s a GPU, all to all between machines"),
    "latency": (1e-4, "s, a sum of gradients over all GPUs beyond its bytes"),
    "memory": (141e9, "bytes of a GPU"),
    "class_seconds": (0.1, "s, mean and covariance of a class of 1,000 samples, and the modality's"),
    "checkpoint": (1e9, "bytes/s, written and summed by the first process"),
}


def trainable_classes(wide: int, options: CommOptions) -> int:
    """Return the largest number of classes with which re-alignment is trained; ``wide`` is D_u."""
    few, many = 0, 10**9
    while few < many:
        middle = (few + many + 1) // 2
        fits = trains(middle, wide, options.steps, options.sampled_features)
        few, many = (middle, many) if fits else (few, middle - 1)
    return few


def estimate(x: SimpleNamespace, options: CommOptions = CommOptions()) -> tuple[list[list[str]], list[list[str]]]:
    """Estimate a run.

    Args:
        x: the values of WORK and RATES by name.

    Returns:
        Rows (phase, what it grows with, hours, share of all), and rows (thing, size, where it lies and where it ends).
    """
    wide = x.dim + x.query  # D_u
    features = 4 * wide * (options.class_rank + 2)  # FeatureMemory: factor, mean, diagonal
    means = x.tokens * (2 * x.width + 4)  # TokenMeans: mean tokens in bfloat16, and counts
    per_class = features + (1 - 1 / x.modalities) * means
    token_bytes = 2 * x.tokens * x.width + 4 * x.query
    steps, per_task = x.samples * x.epochs / x.batch, x.samples / x.tasks
    # A step trains the prefix, the common directions of scales and shifts, and the targets of the task's classes.
    trained = 4 * (
        x.blocks * 2 * options.prompt_length * x.width
        + options.scale_shift_rank * (x.tokens + 2 * x.width)
        + x.classes / x.tasks * x.dim
    )
    seen = x.classes / 2  # mean over the run
    gram = 8 * (x.query + 1) ** 2
    # Mean tokens of the old classes are embedded under the start, and for drift under the old and the new prompt.
    embedded_means = 3 * x.tasks * (1 - 1 / x.modalities) * seen / x.modalities
    drift_flop = seen / x.modalities * 2 * per_task * (wide + x.dim)  # of a task of text
    # The closed form: two Gram matrices of class means are split; the discriminants and dual bases are not.
    split_flop = 2 * 2 * seen * wide**2
    rank = min(wide, x.modalities * options.modality_rank)
    whole_flop = seen * (4 * wide * rank + 2 * wide * x.dim + 6 * x.modalities * x.dim**2)
    # A task changes the prompt of one modality, so the seen test samples of that modality are embedded again.
    again = x.tests * x.tasks / 2 / x.modalities
    phases = {
        "decode": ("N / W", x.samples / x.decode / x.gpus),
        "trunk": ("N / W", x.samples * x.trunk_flop / x.flops / x.gpus),
        "tokens to the cache": ("N / W", x.samples * token_bytes / x.storage / x.gpus),
        "relevance": (
            "N Dq^2 / W + T W Dq^2",
            2 * x.samples * x.query**2 / x.flops64 / x.gpus + x.tasks * x.gpus * gram / x.network,
        ),
        "prompts: products": ("epochs N / W", 3 * x.epochs * x.samples * x.head_flop / x.flops / x.gpus),
        "prompts: tokens from the cache": ("epochs N / W", x.epochs * x.samples * token_bytes / x.storage / x.gpus),
        "prompts: sums of gradients": ("epochs N / batch", steps * (x.latency + 2 * trained / x.network)),
        "features before and after": (
            "3 N / W",
            3 * x.samples * (x.head_flop / x.flops + token_bytes / x.storage) / x.gpus,
        ),
        "z to all": ("N", 3 * x.samples * 4 * x.dim / x.network),
        "statistics": ("C, in each process", x.classes * x.class_seconds),
        "mean tokens of old classes": ("T C / W", embedded_means * x.head_flop / x.flops / x.gpus),
        "drift of old classes of text": ("T C N_task / W", x.tasks / x.modalities * drift_flop / x.flops / x.gpus),
        "re-alignment: moments": ("T C D_u^2 / W", x.tasks * split_flop / x.gpu_flops64 / x.gpus),
        "re-alignment: closed form": (
            "T C D_u M rank + T C M D^2, in each process",
            x.tasks * whole_flop / x.gpu_flops64,
        ),
        "evaluation: embeddings": (
            "T N_test / W",
            2 * again * (x.head_flop / x.flops + token_bytes / x.storage) / x.gpus,
        ),
        "evaluation: scores": ("T N_test C / W", 2 * x.tests * x.tasks / 2 * 2 * seen * x.dim / x.flops / x.gpus),
        "checkpoints": ("T C", x.tasks * seen * per_class / x.checkpoint),
    }
    total = sum(seconds for _, seconds in phases.values())
    times = [
        [name, grows, f"{seconds / 3600:.2f}", f"{100 * seconds / total:.1f} %"]
        for name, (grows, seconds) in phases.items()
    ]
    times.append(["all, one after another", "", f"{total / 3600:.1f}", f"{total / 86400:.1f} days"])
    limit = x.memory / per_class / 2
    places = [
        ["statistics of a class", f"{features / 1e3:.0f} kB", "every GPU holds all classes"],
        ["mean tokens of a class", f"{means / 1e3:.0f} kB", "the same, but for classes of text"],
        [
            "both, all classes",
            f"{x.classes * per_class / 1e9:.0f} GB",
            f"twice while a task is learned (one that fails is undone): a GPU's memory ends at {limit:,.0f} classes",
        ],
        ["a checkpoint", f"{x.classes * per_class / 1e9:.0f} GB", "written by one process after every task"],
        ["class texts", f"{4 * x.classes * x.dim / 1e9:.1f} GB", "every GPU holds all"],
        [
            "class means of the closed form",
            f"{8 * x.classes * wide / 1e9:.1f} GB",
            "float64; every GPU holds them, their deviations and their weights at once",
        ],
        [
            "trained re-alignment",
            f"up to {trainable_classes(int(wide), options):,} classes",
            "with more it is the closed form: steps x sampled features are too few for 20 a class",
        ],
        ["u of a task, before and after", f"{2 * 4 * per_task * wide / 1e9:.1f} GB", "every GPU holds all rows"],
        ["tokens of a task", f"{per_task * token_bytes / 1e12:.2f} TB", "one copy in the folder that all share"],
        ["tokens of all tasks", f"{x.samples * token_bytes / 1e12:.0f} TB", "train.cache_gb decides how many stay"],
        ["tokens of all test sets", f"{x.tests * token_bytes / 1e12:.1f} TB", "read again when a prompt changes"],
        ["samples of a step", f"{x.batch / x.gpus:.0f} a GPU", "the batch of the config is the global one"],
    ]
    return times, places


def measure() -> dict[str, float]:
    """Measure class_seconds on this machine, on a GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    wide, options = int(WORK["dim"][0] + WORK["query"][0]), CommOptions()
    memory = FeatureMemory(options.class_rank, options.modality_rank, options.shrink)
    x = torch.randn(1000, wide, device=device)
    spent = []
    for label in range(4):
        begun = time.perf_counter()
        memory.add("image", [label], x, torch.full((len(x),), label))
        if device == "cuda":
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - begun)
    return {"class_seconds": min(spent[1:])}


def text(values: dict[str, float]) -> str:
    """Return the assumptions and the tables as Markdown."""

    def table(columns: list[str], rows: list[list[str]]) -> str:
        return "\n".join("| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *rows])

    about = [
        [name, f"{values[name]:g}", note if values[name] == default else "given"]
        for name, (default, note) in {**WORK, **RATES}.items()
    ]
    times, places = estimate(SimpleNamespace(**values))
    return "\n\n".join(
        [
            table(["name", "value", "what it is"], about),
            table(["phase", "grows with", "hours", "share"], times),
            table(["what", "size", "where it lies, where it ends"], places),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rates", type=Path, help="a JSON object of values by name, as --measure writes")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--measure", type=Path, metavar="FILE", help="measure here, write FILE")
    chosen = parser.parse_args()
    if chosen.measure:
        chosen.measure.write_text(json.dumps(measure(), indent=1) + "\n")
        return
    values = {name: float(value) for name, (value, _) in {**WORK, **RATES}.items()}
    given = json.loads(chosen.rates.read_text()) if chosen.rates else {}
    given |= dict(word.split("=", 1) for word in chosen.set)
    unknown = sorted(given.keys() - values.keys())
    if unknown:
        parser.error(f"{unknown[0]}: no such name; one of {', '.join(values)}")
    print(text(values | {name: float(value) for name, value in given.items()}))


if __name__ == "__main__":
    main()
