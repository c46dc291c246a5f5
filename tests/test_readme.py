"""The README's Python runs as it stands there, and says what the README says."""

import ast
import re
from pathlib import Path

import jax
import pytest

from hopmix.lab.cli import run

README = Path(__file__).parents[1] / "README.md"


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return code


def test_the_example_runs_and_is_certified(capsys):
    statements = [node for node in ast.parse(example()).body if not isinstance(node, ast.Import)]
    assert len(statements) <= 10
    names: dict = {}
    exec(example(), names)
    assert names["certificate"].descends_in_steps
    assert names["certificate"].check(names["k3"]).passed
    assert "energy descent in every step: proved" in capsys.readouterr().out


def test_the_example_with_free_weights_is_refused(getkey):
    names: dict = {}
    exec(example().replace("Coupling.symmetric", "Coupling.free"), names)
    assert not names["certificate"].descends_in_flow
    assert "not proved" in str(names["certificate"])
    assert not names["certificate"].check(names["k3"]).passed
    assert "*not proved*" in README.read_text(encoding="utf-8")


def test_a_whole_model_as_described(getkey):
    from hopmix import Mixer, MixerConfig

    config = MixerConfig.named("S/16", coupling="broken", classes=10)
    logits = jax.eval_shape(
        lambda key: Mixer(config, key=key)(jax.numpy.zeros((224, 224, 3))), getkey()
    )
    assert logits.shape == (10,)


def test_commands_of_the_readme_exist(capsys):
    console = re.findall(r"^hopmix (\w+)", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert {"ablate", "resume", "report"} <= set(console)
    for command in set(console):
        with pytest.raises(SystemExit) as stop:
            run([command, "--help"])
        assert stop.value.code == 0


FOLDERS = ("docs", "experiments", "notebooks", "theory")
PAGES = [
    *README.parent.glob("*.md"),
    *(page for folder in FOLDERS for page in README.parent.glob(f"{folder}/**/*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(README.parent)))
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [
        target for target in targets if "://" not in target and not (page.parent / target).exists()
    ] == []
