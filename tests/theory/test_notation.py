"""`theory/notation.md` names what exists, and all Lagrangians and synapses; links between the pages
lead somewhere.
"""

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

import hopmix

THEORY = Path(__file__).parents[2] / "theory"
TEXT = (THEORY / "notation.md").read_text("utf-8")
NAMES = sorted(set(re.findall(r"`([A-Z]\w+(?:\.\w+)?|[a-z]+(?:_[a-z]+)+)`", TEXT)))

PUBLIC = {**vars(hopmix.retrieval), **vars(hopmix.symmetry), **vars(hopmix)}


def exists(name: str) -> bool:
    top, _, member = name.partition(".")
    owner = PUBLIC.get(top)
    if not member or owner is None:
        return owner is not None
    fields = (
        {f.name for f in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else set()
    )
    return hasattr(owner, member) or member in fields


def test_there_are_names():
    assert len(NAMES) > 60


@pytest.mark.parametrize("name", NAMES)
def test_the_name_exists(name):
    assert exists(name)


@pytest.mark.parametrize("name", ["Coupling.left", "Kernel", "field_symmetry", "Asymmetry.angle"])
def test_a_wrong_name_would_be_found(name):
    assert not exists(name)


@pytest.mark.parametrize(
    "base", [hopmix.AbstractLagrangian, hopmix.AbstractSynapse], ids=lambda c: c.__name__
)
def test_the_catalogue_is_complete(base):
    public = {
        n
        for n, c in vars(hopmix).items()
        if inspect.isclass(c) and issubclass(c, base) and c is not base
    }
    assert len(public) >= 9
    assert public <= set(NAMES)


@pytest.mark.parametrize("page", sorted(path.name for path in THEORY.glob("*.md")))
def test_links_lead_somewhere(page):
    prose = re.sub(
        r"\$\$.*?\$\$|\$[^$]*\$", "", (THEORY / page).read_text("utf-8"), flags=re.DOTALL
    )
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose)
    missing = [link for link in links if "://" not in link and not (THEORY / link).exists()]
    assert not missing
