"""Parts that all commands share: the app, common options, and errors as one line."""

from __future__ import annotations

import functools
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmcl_fast.cli.output import to_json
from mmcl_fast.errors import RunError, UserError, suggest

if TYPE_CHECKING:
    from rich.console import Console

EXIT_CODES = (
    "Exit codes: 0 done; 1 done, but files can't be read (predict), data is at fault (data check), a required part is "
    "broken (doctor), or a question was answered with no; 2 wrong input, or a failure that one line explains; "
    "3 a fault of mmcl-fast itself, with its traceback; 4 learned, but refused by --max-drop (learn); "
    "130 and 143 stopped by Ctrl-C and SIGTERM (serve: 0); "
    "141 the reader of the output is gone."
)
app = typer.Typer(
    name="mmcl-fast",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Teach one model image, video, audio, depth and text tasks, one after another.",
    epilog=EXIT_CODES,
)
data = typer.Typer(no_args_is_help=True, help="Look after the data of a stream.")
app.add_typer(data, name="data")
cache = typer.Typer(no_args_is_help=True, help="Look after the trunk tokens kept between runs.")
app.add_typer(cache, name="cache")
bench = typer.Typer(no_args_is_help=True, help="Measure on this machine, in a checkout of the repository.")
app.add_typer(bench, name="bench")

REFUSED = 4  # the exit code of a version that --max-drop refused
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress display.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Run = Annotated[Path, typer.Argument(help="A run folder of `mmcl-fast train`.", show_default=False)]


class CommandStopped(Exception):
    """A signal stopped a command.

    Args:
        line: what to do next, such as the command that goes on from there.
        signum: the number of the signal; SIGINT by default.
    """

    def __init__(self, line: str, signum: int = 2):
        super().__init__(line)
        self.signum = signum


def handle_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command: a ``UserError`` ends it with one line and exit code 2, a signal with 128 plus its number.

    With ``debug`` the traceback of the error is printed too.
    """

    @functools.wraps(command)
    def run(*args: Any, debug: bool = False, **options: Any) -> None:
        try:
            command(*args, debug=debug, **options)
            sys.stdout.flush()
        except UserError as error:
            if debug:
                traceback.print_exc()
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except (KeyboardInterrupt, CommandStopped) as stop:
            print(f"\nstopped{': ' + str(stop) if str(stop) else ''}", file=sys.stderr)
            raise typer.Exit(128 + getattr(stop, "signum", 2)) from None

    return run


def process_count(devices: int | None) -> int:
    """Return how many processes ``--devices`` has started or will start; 1 without it."""
    from mmcl_fast import distributed

    # Not ``world_size``: it is 1 until the processes have found each other.
    return devices or (int(os.environ.get("WORLD_SIZE", "1")) if distributed.PARENT_PIPE in os.environ else 1)


@contextmanager
def explain_stop(how_to_go_on: Callable[[], str], debug: bool = False) -> Iterator[None]:
    """Inside, a signal or the loss of a process ends the command with the line ``how_to_go_on()``.

    Of several processes that learn together, only the ones that should report print it.
    """
    from mmcl_fast import distributed

    try:
        yield
    except KeyboardInterrupt as stop:
        signum = getattr(stop, "signum", 2)
        if not distributed.should_report(stop):
            raise typer.Exit(128 + signum) from None
        raise CommandStopped(how_to_go_on(), signum) from None
    except UserError as fault:
        if not (debug or distributed.should_report(fault)):
            raise typer.Exit(2) from None
        if isinstance(fault, distributed.PeerLost):
            raise RunError(f"{fault}: {how_to_go_on()}") from fault
        raise


def make_console() -> Console:
    """Return a console on standard output; 150 columns wide where that is no terminal."""
    from rich.console import Console

    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=150)


def print_json(value: Any) -> None:
    """Print a value as indented JSON in letters that standard output can encode."""
    print(to_json(value, indent=1))


def check_device(name: str) -> None:
    """Check the name of a device.

    Raises:
        ConfigError: no such name, or torch does not find that GPU.
    """
    import torch

    from mmcl_fast.config import DEVICE
    from mmcl_fast.errors import ConfigError

    if not re.fullmatch(DEVICE, name):
        raise ConfigError(f"device {name!r}: use auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count()
    if name.startswith("cuda") and int(name.partition(":")[2] or "0") >= count:
        raise ConfigError(
            f"device {name!r}: torch finds {count} CUDA GPUs here; use cpu or auto "
            "(mmcl-fast doctor says what is missing)"
        )


def require_choice(option: str, value: str, known: Sequence[str]) -> None:
    """Raise UserError with the nearest choice unless ``value`` of the option is one of ``known``."""
    if value not in known:
        raise UserError(f"{option} {value}: {suggest(value, known)} (one of {', '.join(known)})")
