"""Files of a page: figures as PNG and SVG, and the frames and styles that come with the package."""

import base64
import io
import re
from importlib import resources
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from hopmix.lab.store import replacing

_DPI = 160


def save_figure(figure: Figure, folder: Path, name: str) -> str:
    """Write PNG and SVG; return the SVG as an address for the page."""
    with replacing(folder / f"{name}.png") as temporary:
        figure.savefig(
            temporary,
            format="png",
            dpi=_DPI,
            metadata={"Software": None},
            pil_kwargs={"compress_level": 1},
        )
    text = svg(figure)
    with replacing(folder / f"{name}.svg") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return _address(text.encode())


def saved_figure(folder: Path, name: str) -> str:
    """The SVG of a figure that was saved, as an address for the page."""
    return _address((folder / f"{name}.svg").read_bytes())


def figure_files(name: str) -> tuple[str, str]:
    """The files of a figure, by their paths in a run."""
    return f"figures/{name}.png", f"figures/{name}.svg"


def _address(content: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(content).decode()


def svg(figure: Figure) -> str:
    """The figure as SVG."""
    buffer = io.StringIO()
    # Text stays text, and equal figures are equal files.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hopmix"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    # A hundredth of a point is finer than any printer; the digits beyond it are half of the file.
    return re.sub(
        r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), buffer.getvalue()
    )


def resource(name: str) -> str:
    """The text of a template, a style sheet or a script."""
    return resources.files("hopmix.lab.report").joinpath("assets", name).read_text(encoding="utf-8")
