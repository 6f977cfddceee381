"""Pictures in Dagster's metadata: figures as small PNGs, and PNGs as Markdown.

matplotlib is imported when a picture is drawn: it takes most of a second, which would slow down loading the
definitions. Figures are drawn without pyplot, whose global state is not safe in a daemon's threads.
"""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from typing import TYPE_CHECKING, Final

from dagster import MetadataValue

if TYPE_CHECKING:
    from dagster import MarkdownMetadataValue
    from matplotlib.figure import Figure

INK: Final = "#24292f"
_DPI: Final = 90
_COLOURS: Final = 64


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of ``width`` x ``height`` inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - see the module's docstring
    from matplotlib.figure import Figure  # noqa: PLC0415 - same

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """Return ``figure`` as PNG, in a palette of 64 colours, which halves the metadata that Dagster stores."""
    from PIL import Image  # noqa: PLC0415 - see the module's docstring

    drawn, small = BytesIO(), BytesIO()
    figure.savefig(drawn, format="png", facecolor="white")
    with Image.open(drawn) as picture:
        reduced = picture.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
        reduced.save(small, format="png", optimize=True)
    return small.getvalue()


def markdown_image(text: str, picture: bytes) -> MarkdownMetadataValue:
    """Return ``picture`` (PNG) as Markdown that embeds it, with ``text`` as its alternative text."""
    return MetadataValue.md(f"![{text}](data:image/png;base64,{b64encode(picture).decode()})")
