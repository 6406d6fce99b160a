"""Commands that run the benchmark suites."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmcl_fast.cli.common import Debug, Run, bench, handle_errors

ResultsName = Annotated[
    str | None, typer.Option(help="The name of the results; default: the date.", show_default=False)
]


@bench.command("ops")
@handle_errors
def bench_ops(
    select: Annotated[str, typer.Option(help="Choose cases by name: 'realign', '1024x1000 and float32'.")] = "",
    out: ResultsName = None,
    write_table: Annotated[bool, typer.Option("--write-table", help="Keep the fastest backends for `auto`.")] = False,
    seconds: Annotated[
        float | None, typer.Option(min=0.01, help="Seconds to measure each rival.", show_default=False)
    ] = None,
    debug: Debug = False,
) -> None:
    """Time the fused operations and torch.compile, Liger, QuACK and others; print a table, write JSON.

    Example: `mmcl-fast bench ops --select 1024x1000 --seconds 0.2`
    """
    from mmcl_fast import bench as suite
    from mmcl_fast.ops.choice import TABLE

    arguments = ["--select", select] + (["--out", out] if out else [])
    arguments += ["--write-table", str(TABLE)] if write_table else []
    raise typer.Exit(suite.ops(arguments, seconds))


@bench.command("media")
@handle_errors
def bench_media(
    modality: Annotated[str, typer.Option(help="Modalities such as image,audio; default: all.")] = "",
    select: Annotated[str, typer.Option(help="Choose cases by name: 'JPEG', 'MP3 and 1-threads'.")] = "",
    data: Annotated[Path | None, typer.Option(help="A folder of media to read in place of generated ones.")] = None,
    out: ResultsName = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.01, help="Seconds to measure each way to read.", show_default=False)
    ] = None,
    debug: Debug = False,
) -> None:
    """Count the items that each backend, and a DataLoader with Pillow, soundfile or PyAV, reads in a second.

    Example: `mmcl-fast bench media --modality image --seconds 0.5`
    """
    from mmcl_fast import bench as suite

    arguments = ["--modality", modality, "--select", select] + (["--out", out] if out else [])
    raise typer.Exit(suite.media(arguments, seconds, data))


@bench.command("train")
@handle_errors
def bench_train(
    data: Annotated[str | None, typer.Option(help="A folder stream, or 'demo'.", show_default=False)] = None,
    encoder: Annotated[str | None, typer.Option(help="embedded, vit-b16 or a model.", show_default=False)] = None,
    rows: Annotated[str, typer.Option(help="Choose rows by name: 'ours;plain'.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each row.")] = 2,
    growth: Annotated[str, typer.Option(help="Measure the cost over tasks and classes: yes, no or only.")] = "yes",
    devices: Annotated[
        int | None,
        typer.Option(min=1, help="Measure only how `train --devices` scales, up to this number.", show_default=False),
    ] = None,
    out: ResultsName = None,
    quick: Annotated[bool, typer.Option("--quick", help="Use small files and few steps, to see that it runs.")] = False,
    debug: Debug = False,
) -> None:
    """Time whole runs, a plain PyTorch loop of the same method, and Avalanche if it is installed.

    Example: `mmcl-fast bench train --growth no --rows "ours;plain"`
    """
    from mmcl_fast import bench as suite
    from mmcl_fast.cli.common import require_choice
    from mmcl_fast.errors import UserError

    require_choice("--growth", growth, ("yes", "no", "only"))
    if data not in (None, "demo") and not Path(data).is_dir():
        raise UserError(f"bench: --data {data}: no such folder")
    arguments = ["--rows", rows, "--growth", growth, "--seeds", *map(str, range(seeds))]
    for name, value in (
        ("--data", data if data in (None, "demo") else str(Path(data).resolve())),
        ("--encoder", encoder),
        ("--out", out),
        ("--devices", devices and str(devices)),
    ):
        arguments += [name, value] if value else []
    raise typer.Exit(suite.train(arguments + (["--quick"] if quick else [])))


@bench.command("serve")
@handle_errors
def bench_serve(
    run: Run,
    clients: Annotated[int, typer.Option(min=1, help="Clients at once.")] = 50,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of load, with batching and without.")] = 60.0,
    isolation: Annotated[
        bool, typer.Option("--isolation", help="Compare decoding in workers and in the server.")
    ] = False,
    out: ResultsName = None,
    debug: Debug = False,
) -> None:
    """Measure `mmcl-fast serve` on two cores under many clients with the demo's files, with batching and without.

    Example: `mmcl-fast bench serve runs/demo --clients 50 --seconds 15`
    """
    from mmcl_fast import bench as suite

    arguments = ["--clients", str(clients), "--seconds", str(seconds)] + (["--out", out] if out else [])
    raise typer.Exit(suite.serve(run, arguments, isolation))
