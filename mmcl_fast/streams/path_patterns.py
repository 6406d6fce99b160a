"""Match a regular expression of the user in many paths, within a time limit.

A pattern such as ``(a+)+$`` takes a time that doubles with every letter, and nothing stops Python's ``re`` from within.
So a process of its own matches, and it is ended when the time is over.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from mmcl_fast.errors import ConfigError

SECONDS = 20.0  # the time limit; a usual pattern takes microseconds for a path
SECONDS_PER_PATH = 1e-4  # more for each path
# Reads a pattern and paths, one JSON string a line, and writes what was found in each path at once.
PROGRAM = """
import json, re, sys
search = re.compile(json.loads(sys.stdin.readline())).search
for line in sys.stdin:
    found = search(json.loads(line))
    text = "" if found is None else (found[1] if found.re.groups else found[0]) or ""
    print(json.dumps(text), flush=True)
"""


def match_paths(pattern: str, paths: Sequence[str], option: str) -> list[str]:
    """Return for each path the pattern's first group, or else its whole match; empty where there is none.

    Args:
        pattern: a valid regular expression.
        paths: the paths.
        option: the name of the option that holds the pattern, for the error's message.

    Raises:
        ConfigError: the pattern takes too long; the message names the path.
    """
    limit = SECONDS + SECONDS_PER_PATH * len(paths)
    lines = "".join(json.dumps(text) + "\n" for text in (pattern, *paths))
    # -P and -S: no module of the user's folder, and no site-packages, whose start takes longer.
    command = [sys.executable, "-P", "-S", "-c", PROGRAM]
    try:
        done = subprocess.run(command, input=lines.encode(), capture_output=True, timeout=limit, check=True)
    except subprocess.TimeoutExpired as fault:
        path = paths[min((fault.stdout or b"").count(b"\n"), len(paths) - 1)]
        raise ConfigError(
            f"{option}: {pattern!r} was not done with {path} after {limit:.0f} s; write it without a repeat inside a "
            "repeat, such as (a+)+, and without repeats that can match the same letters"
        ) from None
    return [json.loads(line) for line in done.stdout.splitlines()]
