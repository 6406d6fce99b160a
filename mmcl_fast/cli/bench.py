"""Commands that measure on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmcl_fast.cli.common import Debug, Run, bench, guarded


@bench.command("ops")
@guarded
def bench_ops(
    select: Annotated[str, typer.Option(help="Cases by name: 'realign', '1024x1000 and float32'.")] = "",
    out: Annotated[str | None, typer.Option(help="Name of the results.", show_default=False)] = None,
    write_table: Annotated[bool, typer.Option("--write-table", help="Keep the fastest for `auto`.")] = False,
    seconds: Annotated[float | None, typer.Option(min=0.01, help="For each rival.", show_default=False)] = None,
    debug: Debug = False,
) -> None:
    """Time the fused operations beside torch.compile, Liger, QuACK and others: one table, JSON kept.

    Example: `mmcl-fast bench ops --select 1024x1000 --seconds 0.2`
    """
    from mmcl_fast import bench as suite
    from mmcl_fast.ops.choice import TABLE

    arguments = ["--select", select] + (["--out", out] if out else [])
    arguments += ["--write-table", str(TABLE)] if write_table else []
    raise typer.Exit(suite.ops(arguments, seconds))


@bench.command("media")
@guarded
def bench_media(
    modality: Annotated[str, typer.Option(help="Such as image or image,audio; all without it.")] = "",
    select: Annotated[str, typer.Option(help="Cases by name: 'JPEG', 'MP3 and 1-threads'.")] = "",
    data: Annotated[Path | None, typer.Option(help="Folder of media to read in place of generated ones.")] = None,
    out: Annotated[str | None, typer.Option(help="Name of the results.", show_default=False)] = None,
    seconds: Annotated[float | None, typer.Option(min=0.01, help="For each way.", show_default=False)] = None,
    debug: Debug = False,
) -> None:
    """Count the items a second that each backend reads, beside a DataLoader with Pillow, soundfile or PyAV.

    Example: `mmcl-fast bench media --modality image --seconds 0.5`
    """
    from mmcl_fast import bench as suite

    arguments = ["--modality", modality, "--select", select] + (["--out", out] if out else [])
    raise typer.Exit(suite.media(arguments, seconds, data))


@bench.command("train")
@guarded
def bench_train(
    data: Annotated[str | None, typer.Option(help="A folder stream, or 'demo'.", show_default=False)] = None,
    encoder: Annotated[str | None, typer.Option(help="embedded, vit-b16 or a model.", show_default=False)] = None,
    rows: Annotated[str, typer.Option(help="Rows by name: 'ours;plain'.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each row.")] = 2,
    growth: Annotated[str, typer.Option(help="Cost over tasks and classes: yes, no or only.")] = "yes",
    devices: Annotated[
        int | None, typer.Option(min=1, help="Only: how `train --devices` scales, up to so many.", show_default=False)
    ] = None,
    out: Annotated[str | None, typer.Option(help="Name of the results.", show_default=False)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small files and few steps, to see that it runs.")] = False,
    debug: Debug = False,
) -> None:
    """Time whole runs beside a plain PyTorch loop of the same method, and Avalanche's where it imports.

    Example: `mmcl-fast bench train --growth no --rows "ours;plain"`
    """
    from mmcl_fast import bench as suite
    from mmcl_fast.cli.common import one_of
    from mmcl_fast.errors import UserError

    one_of("--growth", growth, ("yes", "no", "only"))
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
@guarded
def bench_serve(
    run: Run,
    clients: Annotated[int, typer.Option(min=1, help="At once.")] = 50,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of load, with batching and without.")] = 60.0,
    isolation: Annotated[
        bool, typer.Option("--isolation", help="Decoding in workers and in the server, in turns; the check too.")
    ] = False,
    out: Annotated[str | None, typer.Option(help="Name of the results.", show_default=False)] = None,
    debug: Debug = False,
) -> None:
    """Load `mmcl-fast serve` on two cores with many clients and the demo's files, with batching and without.

    Example: `mmcl-fast bench serve runs/demo --clients 50 --seconds 15`
    """
    from mmcl_fast import bench as suite

    arguments = ["--clients", str(clients), "--seconds", str(seconds)] + (["--out", out] if out else [])
    raise typer.Exit(suite.serve(run, arguments, isolation))
