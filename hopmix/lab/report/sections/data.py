"""The data: where the images are from, how many there are, and how they were split."""

from html import escape

from hopmix.lab.report import html
from hopmix.lab.report.section import Section, StaticFigures
from hopmix.lab.store.run import Run

SPLITS = {
    "train": ("training", "what the arms learn from"),
    "validation": ("validation", "what is measured during training"),
    "test": ("test", "read once, when the run has ended"),
}


def body(run: Run, static_figures: StaticFigures) -> str:
    """What an image is, and a row per split."""
    data = run.study.get("data", {})
    counts = {name: _count(data.get(name)) for name in SPLITS}
    if not any(counts.values()):
        return html.missing("The run does not say which images it had.")
    rows = [_row(name, count, sum(counts.values())) for name, count in counts.items()]
    table = html.table(
        "Splits of the data", html.heads(("Split", "For", "Images", "Share"), words=2), rows
    )
    return f"<p>{_images(data)}</p>" + table + _provenance(data)


def _row(name: str, count: int, total: int) -> str:
    title, purpose = SPLITS[name]
    cells = (
        f'<td class="words">{purpose}</td><td>{count:,}</td><td>{100 * count / total:.1f} %</td>'
    )
    return f'<tr><th scope="row" class="words">{title}</th>{cells}</tr>'


def _images(data: dict) -> str:
    size = " × ".join(str(length) for length in data.get("image", []))
    classes = _count(data.get("classes"))
    if size:
        told = f"Images of {size} values (height × width × colours)"
    else:
        told = "Images"
    return escape(f"{told}, each of one of {classes} classes." if classes else f"{told}.")


def _provenance(data: dict) -> str:
    source = str(data.get("provenance", ""))
    if source:
        return f'<p class="note">{escape(source)}</p>'
    return ""


def _count(value: object) -> int:
    if isinstance(value, int):
        return value
    return 0


SECTION = Section("data", "The data", body, of_studies=True)
