"""Write a report as one HTML file that needs no network and no other file."""

from __future__ import annotations

import gzip
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from mmcl_fast.report.blocks import Example, Page, Part, Picture
from mmcl_fast.templates import make_environment

if TYPE_CHECKING:
    from jinja2 import Template

HERE = Path(__file__).parent


def render_html(page: Page) -> str:
    """Return the page as HTML. Names from data are shown as text, whatever characters they hold."""
    from markupsafe import Markup

    # Markup: these are files of this package, not data.
    style, script = (Markup((HERE / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js"))
    numbers = count()
    return _template().render(
        page=page,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=style,
        script=script,
        library=_packed_library(),
        new_block=lambda: f"block{next(numbers)}",
    )


@cache
def _template() -> Template:
    environment = make_environment(HERE)
    environment.filters |= {"kind": _kind, "picture_url": _picture_url, "samples_of_plot": _samples_of_plot}
    return environment.get_template("page.html.j2")


def _kind(part: Part) -> str:
    return type(part).__name__


def _picture_url(picture: Picture) -> str:
    return f"data:image/webp;base64,{b64encode(picture.data).decode()}"


def _samples_of_plot(samples: Sequence[Example]) -> list[dict[str, str]]:
    """Return the samples as page.js reads them: ``about``, and ``picture`` or ``text`` where there is one."""
    found = []
    for sample in samples:
        picture = sample.picture and _picture_url(sample.picture)
        values = {"about": sample.about, "picture": picture, "text": sample.text}
        found.append({key: value for key, value in values.items() if value})
    return found


@cache
def _packed_library() -> str:
    """Return plotly.js, compressed to a third by gzip, in base64. page.js unpacks it."""
    from plotly.offline import get_plotlyjs

    # mtime=0: the packed bytes depend on plotly.js alone, not on the time.
    return b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()
