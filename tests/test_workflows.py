"""The workflows cannot run here: they are well-formed, name what exists, may do little, and test
what is claimed.
"""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = {
    path.name: yaml.safe_load(path.read_text("utf-8"))
    for path in (ROOT / ".github/workflows").glob("*.yml")
}
JOBS = [
    pytest.param(job, id=f"{name}-{key}")
    for name, workflow in WORKFLOWS.items()
    for key, job in workflow["jobs"].items()
]


def test_the_matrix_is_the_pythons_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    pythons = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert WORKFLOWS["test.yml"]["jobs"]["gate"]["strategy"]["matrix"]["python"] == pythons
    assert project["requires-python"] == f">={pythons[0]}"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_reads_and_no_more(name):
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}
    assert WORKFLOWS[name]["concurrency"]["cancel-in-progress"] is True


@pytest.mark.parametrize("job", JOBS)
def test_a_job_ends_and_its_commands_exist(job):
    assert job["timeout-minutes"] <= 120
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    commands = "\n".join(step["run"] for step in job["steps"] if "run" in step)
    scripts = re.findall(r"\.ci/\w+", commands)
    made = re.findall(r"\bmake ([a-z-]+)", commands)
    assert scripts + made != []
    assert [script for script in scripts if not (ROOT / script).stat().st_mode & 0o100] == []
    assert set(made) <= set(targets)
