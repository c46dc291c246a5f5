"""The pages in docs/ say what is so: their code runs as it stands there, from top to bottom."""

import re
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[1] / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


def run(page: str):
    names: dict = {}
    for block in blocks(page):
        exec(compile(block, "page", "exec"), names)


@pytest.mark.parametrize("name", ["lagrangians", "memories", "layers", "symmetry", "retrieval"])
def test_a_page_runs(name):
    run((PAGES / f"{name}.md").read_text("utf-8"))


def test_a_page_that_says_what_is_not_so_is_caught():
    with pytest.raises(AssertionError):
        run("```python\none = 1\n```\nand then\n```python\nassert one == 2\n```\n")
