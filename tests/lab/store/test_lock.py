"""The lock: who does not get it changes nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from hopmix.lab import store
from hopmix.lab.errors import UsageError

HOLD = """
import sys
from pathlib import Path
from hopmix.lab import store
with store.only_writer(Path(sys.argv[1])):
    (Path(sys.argv[1]) / "study.json").write_text("{}")
    print("held", flush=True)
    sys.stdin.read()
"""


def contents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def held(tmp_path):
    """A folder that another process holds."""
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield out
    process.communicate("")


def take(out: Path, **options):
    with store.only_writer(out, **options):
        pass


@pytest.mark.parametrize("create", [True, False])
def test_a_second_process_is_refused_and_changes_nothing(held, create):
    before = contents(held)
    with pytest.raises(UsageError, match=f"out: another process is writing {held}; wait for it"):
        take(held, create=create)
    assert contents(held) == before


def test_the_hold_ends_with_the_process(held, tmp_path):
    with pytest.raises(UsageError, match="another process"):
        take(held)
    process = subprocess.run(
        [sys.executable, "-c", HOLD, str(tmp_path / "other")], input="", text=True, check=True
    )
    assert process.returncode == 0
    take(tmp_path / "other")


def test_a_folder_in_which_nothing_was_written_is_not_left(tmp_path):
    take(tmp_path / "new" / "run")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").touch()
    take(tmp_path / "notes")
    assert [p.name for p in (tmp_path / "notes").iterdir()] == ["thesis.tex"]


def test_the_lock_stays_where_a_study_is(tmp_path):
    with store.only_writer(tmp_path / "run"):
        (tmp_path / "run" / "study.json").touch()
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [".lock", "study.json"]
    (tmp_path / "run" / ".lock").write_text("kept")
    take(tmp_path / "run")
    assert (tmp_path / "run" / ".lock").read_text() == "kept"


def test_nothing_is_made_for_a_study_that_must_be_there(tmp_path):
    with pytest.raises(UsageError, match="no study here"):
        take(tmp_path / "run", create=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name, told",
    [("file", "is a file"), ("file/run", "is a file"), ("n" * 300, "can't be written")],
)
@pytest.mark.parametrize("create", [True, False])
def test_what_cannot_be_a_folder_is_told(tmp_path, name, told, create):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=f"{told}|no study here"):
        take(tmp_path / name, create=create)


def test_a_link_that_leads_nowhere_is_told(tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "gone")
    with pytest.raises(UsageError, match=r"^out: .* name "):
        take(tmp_path / "run")
