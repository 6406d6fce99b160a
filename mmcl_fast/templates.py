"""Fill Jinja2 templates: every value is escaped, and a missing value is an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def make_environment(folder: Path, finalize: Callable[[Any], Any] | None = None) -> Environment:
    """Return an environment for the templates of one folder.

    Args:
        folder: the templates are files in it.
        finalize: called with each value before it is escaped as HTML. A template of another language passes a
            function that escapes for this language and returns ``markupsafe.Markup``.
    """
    import jinja2  # here, so that commands that fill no template don't wait for it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # Jinja2's own default sorts keys and puts spaces after commas.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment
