"""The table of theory/README.md: it equals the claims, what it names exists, and its errors are
measured again.
"""

import ast
import functools
import keyword
import math
import re
from pathlib import Path

import pytest

from hopmix.claims import table
from hopmix.claims._claim import Claim, Measurement
from hopmix.claims.catalogue import CLAIMS, EXAMPLES, SEED
from hopmix.lab.verify.checks import measure_claims

ROOT = Path(__file__).resolve().parents[2]
THEORY = ROOT / "theory"
README = (THEORY / "README.md").read_text("utf-8")
ERROR = table.COLUMNS.index("error")
EPS = 2.0**-52

by_claim = pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)


@pytest.fixture(scope="module")
def measured() -> dict[str, Measurement]:
    """All claims on the examples of the table; most of the time is spent compiling."""
    return {m.claim.id: m.measurement for m in measure_claims(CLAIMS, examples=EXAMPLES, seed=SEED)}


def rows(document: str) -> dict[str, list[str]]:
    """The cells of the table on a page, by the id of the claim."""
    _, _, lines = document.partition(table.BEGIN)[2].partition(table.END)[0].strip().split("\n", 2)
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines.split("\n")]
    return {
        re.sub(r"\W.*", "", row[0].strip(" [")): [cell.strip() for cell in row] for row in cells
    }


# ---- The numbers ---------------------------------------------------------------------------------


@by_claim
def test_the_claim_holds_on_the_examples_of_the_table(claim, measured):
    assert measured[claim.id].passed, f"{claim.what}: {measured[claim.id]}"
    assert (
        EXAMPLES <= measured[claim.id].examples < 1.1 * EXAMPLES
    )  # kinds of systems have equal shares


@by_claim
def test_the_table_says_what_the_claim_says(claim, measured):
    expected = list(table.cells(claim, measured[claim.id]))
    found = rows(README)[claim.id]
    assert found[:ERROR] + found[ERROR + 1 :] == expected[:ERROR] + expected[ERROR + 1 :]


@by_claim
def test_the_error_in_the_table_is_the_one_that_is_measured(claim, measured):
    assert agree(rows(README)[claim.id][ERROR], measured[claim.id].error)


def agree(recorded: str, error: float) -> bool:
    """Whether a recorded error is of the order of a measured one.

    The examples are the same everywhere, so that rounding differs by how sums are ordered; a factor
    of 30 is ample. Below one ulp a number is as good as 0.
    """
    return math.isfinite(error) and abs(
        math.log(max(float(recorded), EPS) / max(error, EPS))
    ) <= math.log(30)


@pytest.mark.parametrize(
    "recorded, error, expected",
    [
        ("9e-16", 5e-16, True),
        ("0", 2e-16, True),
        ("2e-16", 0.0, True),
        ("0.01", 0.0123, True),
        ("0", 1e-14, False),
        ("1e-13", 3e-16, False),
        ("3e-16", 1e-13, False),
        ("0.01", 3e-16, False),
        ("3e-16", math.nan, False),
        ("nan", 3e-16, False),
        ("1", math.inf, False),
    ],
)
def test_a_wrong_record_is_caught(recorded, error, expected):
    assert agree(recorded, error) is expected


def test_there_are_no_other_rows():
    assert list(rows(README)) == [claim.id for claim in CLAIMS]


def test_measuring_a_claim_alone_gives_the_same(measured):
    claim = next(claim for claim in CLAIMS if claim.id == "C04")
    (alone,) = measure_claims([claim], examples=EXAMPLES, seed=SEED)
    assert alone.measurement == measured["C04"]
    (other,) = measure_claims([claim], examples=EXAMPLES, seed=SEED + 1)
    assert other.measurement.error != measured["C04"].error


# ---- What the table names ------------------------------------------------------------------------


def test_ids_are_unique_in_order_and_complete():
    ids = [claim.id for claim in CLAIMS]
    assert ids == sorted(set(ids))
    assert {f"C{i:02d}" for i in range(1, 18)} <= set(ids)
    assert all(re.fullmatch(r"C\d\d", name) for name in ids)


@by_claim
def test_pages_and_tests_exist_and_name_each_other(claim):
    page = (THEORY / claim.page).read_text("utf-8")
    assert page.startswith(f"# {claim.id}")
    assert claim.test in page
    assert claim.page.startswith(f"{claim.id}-")
    assert claim.test.startswith(f"test_{claim.id.lower()}_")
    assert (ROOT / "tests" / "theory" / claim.test).is_file()


@by_claim
def test_a_statement_is_one_line(claim):
    for text in (claim.statement, claim.source, claim.what):
        assert text == " ".join(text.split())
        assert 0 < len(text) < 220


def test_every_module_and_page_of_a_claim_is_in_the_catalogue():
    modules = {path.stem for path in (ROOT / "hopmix" / "claims").glob("c[0-9]*.py")}
    assert modules == {claim.measure.__module__.rpartition(".")[2] for claim in CLAIMS}
    assert {path.name for path in THEORY.glob("C*.md")} == {claim.page for claim in CLAIMS}


@functools.cache
def names_in_code() -> set[str]:
    """All names that code defines or uses, options and values given as text, and the stems of all
    files.
    """
    names = set()
    for path in [
        path for folder in ("hopmix", "tests", "theory") for path in (ROOT / folder).rglob("*.py")
    ]:
        names |= set(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_bytes())):
            values = (
                getattr(node, field, None) for field in ("name", "arg", "id", "attr", "value")
            )
            names |= {value for value in values if isinstance(value, str)}
    return names


FILES = {
    path.name
    for folder in ("hopmix", "tests", "theory", "experiments")
    for path in (ROOT / folder).rglob("*.*")
}


def unknown_names(page: str) -> list[str]:
    """What a page sets as code, and is neither a file nor made of names in the code."""
    found = []
    for token in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page, flags=re.DOTALL)):
        if "/" in token and not token.startswith("$"):
            places = (ROOT, THEORY, ROOT / "hopmix")
            known = any((place / part).exists() for part in token.split()[-1:] for place in places)
        elif re.search(r"\.(py|md|svg|png)$", token):
            known = token in FILES
        else:
            words = {
                word
                for dotted in re.findall(r"[A-Za-z_][\w.]*", token)
                for word in dotted.split(".")
            }
            known = words - set(keyword.kwlist) <= names_in_code()
        found += [] if known else [token]
    return found


@pytest.mark.parametrize("page", sorted(path.name for path in THEORY.glob("*.md")))
def test_names_on_a_page_are_those_of_the_code(page):
    assert unknown_names((THEORY / page).read_text("utf-8")) == []


@pytest.mark.parametrize(
    "text", ["`hopmix.no_such_name`", "`Coupling.no_such_part`", "`theory/no.py`", "`nowhere.py`"]
)
def test_a_stale_name_is_caught(text):
    assert unknown_names(f"See `Coupling.up`, `theory/README.md`, `_memory.py` and {text}.") == [
        text.strip("`")
    ]


@pytest.mark.parametrize("page", sorted(path.name for path in THEORY.glob("*.md")))
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#\s]+)[)#]", (THEORY / page).read_text("utf-8"))
    assert [target for target in targets if not (THEORY / target).exists()] == []


def test_the_front_page_leads_to_everything():
    linked = set(re.findall(r"\]\(([^)#]+)\)", README))
    here = {path.name for path in THEORY.iterdir() if path.suffix in (".md", ".py")} - {"README.md"}
    assert here <= linked


# ---- The table as such ---------------------------------------------------------------------------


def made_up() -> Claim:
    measure = lambda key, examples: Measurement(0.0, 0.0, examples)
    return Claim(
        "C99", "|x| * 2_a <= _b", "us", "proved", "C99-x.md", "test_c99_x.py", "gap", measure
    )


@pytest.mark.parametrize(
    "error, cell",
    [(0.5, "**0.5: fails**"), (math.nan, "**nan: fails**"), (math.inf, "**inf: fails**")],
)
def test_a_broken_claim_shows(error, cell):
    assert table.cells(made_up(), Measurement(error, 1e-10, 5))[ERROR] == cell
    assert not agree(re.sub(r"[^\w.]|fails", "", cell), 1e-16)


def test_cells_are_read_back_as_they_were():
    line = table.markdown([(made_up(), Measurement(3.4e-16, 1.25e-10, 1234))])
    assert rows(f"{table.BEGIN}\n{line}\n{table.END}")["C99"] == [
        "[C99](C99-x.md)",
        r"\|x\| \* 2_a \<= \_b",
        "us",
        "proved",
        "[test_c99_x.py](../tests/theory/test_c99_x.py)",
        "gap",
        "3e-16",
        "1.25e-10",
        "1234",
    ]


def test_only_what_is_between_the_markers_is_replaced():
    page = f"a\n{table.BEGIN}\nold\n{table.END}\nb\n"
    assert table.replaced(page, "new") == f"a\n{table.BEGIN}\nnew\n{table.END}\nb\n"


@pytest.mark.parametrize(
    "page",
    ["", table.BEGIN, table.END, f"{table.END}{table.BEGIN}", 2 * f"{table.BEGIN}{table.END}"],
)
def test_a_page_without_the_two_markers_is_refused(page):
    with pytest.raises(ValueError, match="once each"):
        table.replaced(page, "new")
