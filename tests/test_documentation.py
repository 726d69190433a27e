"""The commands of README.md and jobs/README.md: every one is known, and the cheap ones run as they stand."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from skillmatch_ray.cli import app
from skillmatch_ray.planning.plan import Demand, size_workload
from skillmatch_ray.planning.rates import load_rates

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "jobs/README.md")
COMMANDS = ("skillmatch", "bash", "ray", "serve", "curl", "export", "kubectl", "docker", "tar", "pip")
CHEAP = {"validate", "match", "plan", "doctor", "release list", "release status", "render kuberay", "study"}
"""Verbs that run here for real, without a Ray of their own."""


def blocks(text):
    """Logical lines of the shell blocks, without comments and prompts."""
    for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def inline(text):
    """Commands in running text and tables: `skillmatch ...`."""
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for code in re.findall(r"`(skillmatch [^`]+)`", " ".join(outside.split())):
        if "..." not in code.replace('"..."', ""):
            yield shlex.split(code)


def commands():
    for page in PAGES:
        text = (ROOT / page).read_text()
        for words in (*blocks(text), *inline(text)):
            yield pytest.param(words, id=f"{page}: {shlex.join(words)[:70]}")


def verb_of(words):
    """(names of the verb, its click command, the rest of the words); fails where there is no such verb."""
    command, names, rest = typer.main.get_command(app), [], list(words[1:])
    while rest and hasattr(command, "commands"):
        assert rest[0] in command.commands, (
            f"no verb {' '.join([*names, rest[0]])!r}; there are {sorted(command.commands)}"
        )
        command = command.commands[rest[0]]
        names.append(rest.pop(0))
    return " ".join(names), command, rest


def check_options(words):
    _, command, rest = verb_of(words)
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    used = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
    assert used <= known, f"{shlex.join(words)}: unknown options {used - known}"


def check_files(words):
    """Files of this repository that a command names are there."""
    for word in words:
        if re.fullmatch(r"(jobs|tests)/[\w./-]+|cluster\.yaml|serve_config\.yaml", word):
            assert (ROOT / word).exists(), f"{word} in {shlex.join(words)}"


@pytest.mark.parametrize("words", commands())
def test_every_command_is_known(words):
    check_files(words)
    name = words[0].rpartition("/")[2]
    if name == "skillmatch":
        check_options(words)
    elif name == "bash":
        assert subprocess.run(["bash", "-n", ROOT / words[1]], check=False).returncode == 0
    elif name == "ray" and words[1:3] == ["job", "submit"]:
        script, rest = words[words.index("python") + 1], words[words.index("python") + 2 :]
        check_options(["skillmatch", Path(script).stem, *rest])
    else:
        assert name in COMMANDS or re.match(r"[A-Z_]+=", name), f"what is {name}?"


@pytest.fixture
def place(tiny_workspace, tmp_path, monkeypatch):
    """A directory in which the names that the pages use stand for something."""
    shutil.copytree(tiny_workspace.root, tmp_path / "workspace")
    (tmp_path / "data").symlink_to(tmp_path / "workspace" / "dataset")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").symlink_to(next((tmp_path / "workspace" / "models").glob("head-*")))
    (tmp_path / "brief.json").write_text('{"title": "React developer", "skills": ["React"]}')
    for name in ("cluster.yaml", "serve_config.yaml", "jobs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.e2e
@pytest.mark.usefixtures("place")
def test_the_cheap_commands_run_as_they_stand():
    ran = set()
    for words in (parameter.values[0] for parameter in commands()):
        if words[0] != "skillmatch" or any(word in {"NAME", "DIR", "FILE"} for word in words):
            continue
        name, _, _ = verb_of(words)
        if name not in CHEAP or any("http://" in word for word in words):
            continue
        if name == "study" and "--list" not in words:  # a study is hours of work in all
            continue
        done = CliRunner().invoke(app, words[1:])
        assert done.exit_code == 0 or name == "doctor", f"{shlex.join(words)}: {done.output} {done.exception}"
        ran.add(name)
    assert ran >= {"validate", "match", "plan", "doctor"}


def test_the_help_is_a_table_of_contents():
    shown = CliRunner().invoke(app, ["--help"]).output
    panels = re.findall(r"─ ([A-Z][a-z ]+) ─", shown)
    assert panels[:2] == ["Options", "Start here"]
    assert sorted(panels[2:]) == ["Data", "Evidence", "Model", "Operation", "Search"]
    for name, command in typer.main.get_command(app).commands.items():
        assert re.search(rf"│ {name} ", shown), name
        assert command.help, name


def test_every_fault_in_the_table_is_shown_by_a_test():
    text = (ROOT / "jobs" / "README.md").read_text()
    named = re.findall(r"\| (tests/[\w/]+\.py)(?:::(\w+))? \|", text)
    assert len(named) >= 5
    for file, test in named:
        assert f"def {test}" in (ROOT / file).read_text(), f"{file}::{test}"


def sizing_row(freelancers, gpu):
    """One row of the sizing table, as `skillmatch plan` computes it."""
    plan = size_workload(Demand(freelancers, tokens_per_profile=600, qps=200, gpu=gpu), load_rates())
    steps = {step.name: step for step in plan.steps}
    sizes = {size.name: size.amount for size in plan.sizes}
    encode = steps["encode"]
    gigabytes = (
        sizes["memory of the driver"],
        sizes["shared disk: vectors, and texts while encoding"],
        sizes["Milvus memory, two releases at the switch"],
        sizes["Milvus disk, two releases"],
    )
    hours = [f"{encode.hours:.2g}", f"{plan.hours:.2g}"]
    amounts = [f"{amount:,.2g}" if amount < 10 else f"{amount:,.0f}" for amount in gigabytes]
    cells = [f"{freelancers:,}", f"{encode.units} {encode.unit}", *hours, plan.bottleneck.name, *amounts]
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("freelancers", [100_000, 1_000_000, 10_000_000, 100_000_000])
@pytest.mark.parametrize("gpu", ["h100", "l4"])
def test_the_sizing_table_is_what_the_plan_says(freelancers, gpu):
    assert sizing_row(freelancers, gpu) in (ROOT / "jobs" / "README.md").read_text().splitlines()
