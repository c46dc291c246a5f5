"""What no command can do is told in one line, before any work: types, bounds, paths and edited
records.
"""

import dataclasses
import json
import math
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from hopmix.lab import cli, store
from hopmix.lab.config import Resume, StudyConfig, Verify
from hopmix.lab.errors import UsageError
from hopmix.lab.fields import LARGEST, need_fields
from hopmix.lab.study.arms import make_arms
from hopmix.lab.study.capacity import need_memory

ROOT = Path(__file__).parents[2]

EVERY = 5
"""All cases are tried by `make drills`."""


@dataclasses.dataclass(frozen=True)
class Command:
    count: int = 1
    share: float = 0.5
    names: tuple[str, ...] = ("a",)
    on: bool = False
    path: Path | None = None

    def __post_init__(self):
        need_fields(self)


SCRIPT = """
import contextlib, io, json, sys
from pathlib import Path
from experiments.reliability.bad_options import cases
from hopmix.lab import cli, store
told = []
for name, arguments in list(cases(Path(sys.argv[1])))[::int(sys.argv[2])]:
    out = io.StringIO()
    error = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = cli.run(arguments)
    told.append([name, code, out.getvalue(), error.getvalue()])
print(json.dumps(told))
"""


def test_each_bad_option_is_told_in_one_line_with_exit_code_2(tmp_path):
    """In a process without the annotations that the tests check first."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(EVERY)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    told = json.loads(run.stdout)
    assert len(told) > 100
    assert [
        row for row in told if row[1] != 2 or row[2] or not re.fullmatch("hopmix: [^\n]+\n", row[3])
    ] == []


@pytest.mark.parametrize(
    "field, value, cure",
    [
        ("count", "1", "a whole number"),
        ("count", 1.0, "a whole number"),
        ("count", True, "a whole number"),
        ("count", LARGEST + 1, "at most 2,147,483,647"),
        ("share", "x", "a number"),
        ("share", math.nan, "float32 holds"),
        ("share", 1e39, "float32 holds"),
        ("share", 1e-60, "float32 tells from zero"),
        ("names", ("a", 1), "each entry is text"),
        ("names", "a", "a list"),
        ("on", 1, "true or false"),
        ("path", "x", "a path or nothing"),
    ],
)
def test_a_value_of_another_type_is_told_with_field_value_and_cure(field, value, cure):
    with pytest.raises(UsageError) as told:
        Command(**{field: value})
    assert str(told.value).startswith(f"{field}: got ")
    assert cure in str(told.value)


def test_the_bounds_themselves_are_taken():
    Command(count=LARGEST, share=0.0)
    Command(count=-LARGEST, share=3.4e38)
    Command(share=1e-38, path=Path("no/such/file"))


def test_a_path_that_no_file_can_have_is_told(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    (tmp_path / "file").touch()
    for path in (
        tmp_path / "link",
        tmp_path / "file" / "below",
        tmp_path / ("x" * 300),
        Path("a\0b"),
    ):
        with pytest.raises(UsageError, match="path: "):
            Command(path=path)


@pytest.mark.parametrize("data", ["", "~no-such-user/images"])
def test_data_that_cannot_be_named_are_told(tmp_path, data):
    for command in (StudyConfig, partial(Resume, tmp_path), partial(Verify, tmp_path)):
        with pytest.raises(UsageError, match=r"^data: "):
            command(data=data)


def test_targets_that_nobody_can_write_are_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"out: .*file.* is a file"):
        store.require_folder("out", tmp_path / "file" / "run")
    with pytest.raises(UsageError, match=r"json: .* can't be written"):
        store.require_target("json", Path("/proc/a.json"))


def test_members_beyond_the_memory_are_refused_before_they_are_made():
    small = StudyConfig(arms=("free",))
    need_memory(small, make_arms(small, (8, 8, 1), 10))
    large = StudyConfig(arms=("free",), dim=10**5, depth=500)
    with pytest.raises(UsageError, match=r"dim, depth, seeds, batch: .* need [\d,.]+ GB"):
        need_memory(large, make_arms(large, (8, 8, 1), 10))


def test_more_steps_than_are_counted_are_refused(capsys):
    assert cli.run(["ablate", "--dry-run", "--epochs", str(LARGEST)]) == 2
    assert "epochs: got 2147483647" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, field",
    [
        (["ablate", "--seeds", "1", "--seeds", "2"], "seeds"),
        (["ablate", "--arms", "free", "--arms=symmetric"], "arms"),
        (["ablate", "--dry-run", "--out", "a", "--out", "b"], "out"),
        (["ablate", "--paper-lambdas", "--paper_lambdas"], "paper-lambdas"),
    ],
)
def test_an_option_given_twice_is_told(capsys, arguments, field):
    assert cli.run(arguments) == 2
    assert (
        capsys.readouterr().err
        == f"hopmix: {field}: given 2 times; give it once, with all its values.\n"
    )


def test_some_options_add_up():
    command = cli._parse(["verify", "--claim", "C01", "--claim", "C02"])
    assert command.claim == ("C01", "C02")


def test_a_home_that_the_shell_leaves_alone_is_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    command = cli._parse(["ablate", "--out=~/run"])
    assert command.out == tmp_path / "run"
    assert Verify(json=Path("~/a.json")).json == tmp_path / "a.json"
