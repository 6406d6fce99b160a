"""The command line: ``main`` runs it, and each module of this package adds commands to its app."""

from __future__ import annotations

import sys
import traceback
import warnings
from typing import Annotated, Any

import typer

from mmcl_fast.cli import (  # noqa: F401  (each adds its commands to the app)
    bench,
    cache,
    classes,
    compare,
    data,
    doctor,
    export,
    init,
    learn,
    output,
    predict,
    report,
    serve,
    versions,
)
from mmcl_fast.cli.common import app


def _version(wanted: bool) -> None:
    if wanted:
        from mmcl_fast import __version__

        print(f"mmcl-fast {__version__}")
        raise typer.Exit()


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    use: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE.py",
            help="A Python file or module of yours to import first: it registers methods, encoders or modalities "
            "of your own. May be given again.",
        ),
    ] = None,
) -> None:
    """Teach one model image, video, audio, depth and text tasks, one after another."""
    from mmcl_fast import plugins
    from mmcl_fast.errors import UserError

    try:
        plugins.load(use or ())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """Print a warning to stderr. One about the former name of an option is a line without the place in our code."""
    from mmcl_fast.option_fields import FormerNameWarning

    plain = issubclass(category, FormerNameWarning)
    text = f"note: {message}\n" if plain else warnings.formatwarning(message, category, filename, lineno)
    sys.stderr.write(text)


def main() -> None:
    """The console script; see ``EXIT_CODES``."""
    output.prepare()
    warnings.showwarning = _show_warning
    try:
        try:
            app(prog_name="mmcl-fast")
        except SystemExit:
            sys.stdout.flush()
            raise
    except output.PipeClosed:
        sys.exit(128 + 13)  # as a program that SIGPIPE ends
    except output.OutputError as error:  # of --help and --version
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        sys.exit(3)
