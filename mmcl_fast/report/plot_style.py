"""The look that all figures of a report share: colours, dashes, markers, margins.

A colour that begins with ``--`` is a variable of page.css, which has a value for light and one
for dark pages. The colours are from Okabe and Ito (2008), who chose them for colour-blind people. Dash, marker or
hatching differ as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

Figure = dict[str, Any]  # a JSON object of plotly.js: data and layout

COLORSCALE = "Cividis"
NUM_COLOURS = 5  # --c0 to --c4
DASHES = ("solid", "dash", "dot", "longdash", "dashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "triangle-down", "pentagon")
HATCHES = ("", "/", ".", "x")
MODALITIES = ("image", "video", "audio", "depth", "text")
LEGEND_ABOVE = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
LEGEND_RIGHT = {"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top"}
MARGIN = {"l": 10, "r": 10, "t": 10, "b": 10}


def escape_text(text: Any) -> str:
    """Return a name from data such that plotly.js, which reads HTML in texts, shows it as it is."""
    return escape(str(text), quote=False)


def series_colour(number: int) -> str:
    """Return the colour of a series; colours repeat after ``NUM_COLOURS``."""
    return f"--c{number % NUM_COLOURS}"


def series_number(modality: str, present: Sequence[str]) -> int:
    """Return the number of a modality's series.

    The five built-in modalities have the same number in every run. Custom modalities follow in their order in
    ``present``.
    """
    others = [name for name in present if name not in MODALITIES]
    return MODALITIES.index(modality) if modality in MODALITIES else len(MODALITIES) + others.index(modality)
