"""The numbers of finished runs for people: one HTML page, the same as Markdown, and tables for the terminal.

Example::

    from mmcl_fast import report

    report.write("runs/demo")  # runs/demo/report.html and report.md
    run = report.read_run("runs/demo")
    print(run["settings"]["agnostic"]["metrics"]["last"])
"""

from mmcl_fast.report.page import write
from mmcl_fast.report.read_run import read_run

__all__ = ["read_run", "write"]
