"""Tables of a page as CSV, read from the page itself so that both say the same."""

import csv
import io
import re
from collections.abc import Sequence
from html import escape
from html.parser import HTMLParser
from urllib.parse import quote

_PARTS = re.compile(r"(?P<value>\S.*?)(?: ± (?P<error>\S+))?(?: (?P<unit>%))?(?: z = (?P<z>\S+))?")
_SUFFIX = {"value": "", "error": " ±", "z": " z"}
_NUMBER = re.compile(r"[+-]?[\d,]*\.?\d+(e[+-]?\d+)?")


def csv_of(table: str) -> str:
    """The rows of one HTML table as CSV, with a column each for a mean, its error and its z."""
    reader = _Cells()
    reader.feed(table)
    head, *rows = reader.rows
    if rows:
        columns = [_columns(name, cells) for name, cells in zip(head, zip(*rows))]
    else:
        columns = []
    names = [name for column in columns for name in column] or head
    values = [cells for column in columns for cells in column.values()]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(zip(*values))
    return out.getvalue()


def link(label: str, text: str) -> str:
    """A link that saves the text, which it holds itself, under a name made of the label."""
    name = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-") or "table"
    address = "data:text/csv;charset=utf-8," + quote(text)
    return f'<p class="csv"><a download="{name}.csv" href="{escape(address)}">CSV</a></p>'


def _columns(name: str, cells: Sequence[str]) -> dict[str, list[str]]:
    """One column, or several where cells have more than one number."""
    split = [_parts(cell) for cell in cells]
    used = [part for part in _SUFFIX if part == "value" or any(row[part] for row in split)]
    return {name + _SUFFIX[part]: [row[part] for row in split] for part in used}


def _parts(cell: str) -> dict[str, str]:
    found = _PARTS.fullmatch(cell)
    parts = found.groupdict() if found else {}
    return {part: _plain_number(parts.get(part) or "") for part in _SUFFIX}


def _plain_number(text: str) -> str:
    """Without thousands separators, and with the minus that programs read."""
    number = text.replace("−", "-")
    if number == "–":
        return ""
    if _NUMBER.fullmatch(number):
        return number.replace(",", "")
    # A spreadsheet would compute what begins like a formula; names may come from anybody.
    if text.startswith(("=", "+", "-", "@")):
        return f"'{text}"
    return text


class _Cells(HTMLParser):
    """The text of the cells of a table, row by row."""

    def __init__(self):
        super().__init__()
        self.rows: list[list[str]] = []
        self.texts: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.texts = []

    def handle_data(self, data: str):
        if self.texts is not None:
            self.texts.append(data.strip())

    def handle_endtag(self, tag: str):
        if tag in ("td", "th") and self.texts is not None:
            self.rows[-1].append(" ".join(filter(None, self.texts)))
            self.texts = None
