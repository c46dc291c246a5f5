"""Tables as CSV: what a cell says, in columns that programs read."""

import csv
import io
import re
from urllib.parse import unquote

import pytest

from hopmix.lab.report.csv_table import csv_of, link


def table(*rows: str) -> str:
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_means_errors_and_z_have_columns_of_their_own():
    head = '<th>Index</th><th>free<span class="sub">n = 2</span></th>'
    first = '<th>cosine</th><td>−0.035 ± 0.012<span class="sub">z = −0.8</span></td>'
    rows = read(csv_of(table(head, first, "<th>balance</th><td>0.250</td>")))
    assert rows[0] == {
        "Index": "cosine",
        "free n = 2": "-0.035",
        "free n = 2 ±": "0.012",
        "free n = 2 z": "-0.8",
    }
    assert [float(row["free n = 2"]) for row in rows] == [-0.035, 0.25]
    assert rows[1]["free n = 2 ±"] == ""


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("112,714", "112714"),
        ("–", ""),
        ("+1.5", "+1.5"),
        ("72.0 %", "72.0"),
        ("&lt; 0.0001", "< 0.0001"),
    ],
)
def test_numbers_are_plain(cell, expected):
    (row,) = read(csv_of(table("<th>n</th>", f"<td>{cell}</td>")))
    assert row["n"] == expected


def test_names_are_text_and_never_formulas():
    (row,) = read(csv_of(table("<th>Arm</th>", "<th>=1+1, &lt;b&gt;</th>")))
    assert row["Arm"] == "'=1+1, <b>"


def test_a_table_without_rows_has_its_head():
    assert csv_of(table("<th>a</th><th>b</th>")) == "a,b\n"


def test_the_link_holds_the_text_and_a_safe_name():
    made = link('Whole "blocks"/..', 'a,b\n"<x>",1 &\n')
    (address,) = re.findall(r'href="data:text/csv;charset=utf-8,([^"]*)"', made)
    assert unquote(address) == 'a,b\n"<x>",1 &\n'
    assert 'download="whole-blocks.csv"' in made
