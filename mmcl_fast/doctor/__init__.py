"""``mmcl-fast doctor``: check what this machine has, what is missing, and how to mend it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from mmcl_fast.doctor import libraries, machine, package
from mmcl_fast.doctor.result import CheckResult, one_line

if TYPE_CHECKING:
    from rich.console import Console

# In the order in which the results are shown.
CHECKS: tuple[Callable[[], Iterator[CheckResult]], ...] = (
    machine.check_python,
    machine.check_torch,
    machine.check_gpus,
    machine.check_nvcc,
    package.check_extension,
    package.check_backends,
    package.check_backend_choices,
    libraries.check_codecs,
    package.check_isolation,
    libraries.check_torch_companions,
    libraries.check_extras,
    libraries.check_dali,
    libraries.check_embedded_weights,
    package.check_demo,
    package.check_feature_cache,
    machine.check_disk,
)


def examine() -> list[CheckResult]:
    """Run all checks. A check that fails becomes a result of state ``broken``."""
    found: list[CheckResult] = []
    for check in CHECKS:
        try:
            found += check()
        except Exception as error:  # a broken package may raise anything, and that is what to report
            name = check.__name__.removeprefix("check_").replace("_", " ")
            about = f"{type(error).__name__}: {one_line(error)}"
            found.append(CheckResult(name, "broken", about, "reinstall the package that the message names"))
    return found


def show(results: list[CheckResult], console: Console) -> None:
    """Print results as a table, then what to mend."""
    from rich.table import Table
    from rich.text import Text

    style = {"ok": "green", "missing": "yellow", "broken": "red"}
    table = Table(show_edge=False)
    for name in ("what", "state", "found"):
        table.add_column(name, overflow="fold")
    for result in results:
        table.add_row(result.name, Text(result.state, style[result.state]), Text(result.about))
    console.print(table)
    with_advice = [result for result in results if result.mend]
    if with_advice:
        console.print("\nTo mend or add:")
    for result in with_advice:
        console.print(Text(f"  {result.name}: {result.mend}"))
    if any(result.core and result.state == "broken" for result in results):
        console.print("\nThe core does not work.", style="red")
    else:
        console.print("\nThe core works.", style="green")
