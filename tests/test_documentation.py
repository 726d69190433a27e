"""The commands of README.md and jobs/README.md: every one is known, and every one runs here or says why it does not."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
from taxonomy_form import write_taxonomy
from typer.testing import CliRunner

from skillmatch_ray.cli import app
from skillmatch_ray.index.releases import active_release
from skillmatch_ray.planning.plan import Demand, size_workload
from skillmatch_ray.planning.rates import load_rates
from skillmatch_ray.sample.taxonomy import builtin_taxonomy
from skillmatch_ray.serving.served import ServedLog, ServedMatch
from skillmatch_ray.workspace import Workspace

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "jobs/README.md")
COMMANDS = ("skillmatch", "bash", "ray", "serve", "curl", "export", "kubectl", "docker", "tar", "pip")
CHEAP = {
    "validate",
    "match",
    "plan",
    "doctor",
    "release list",
    "release status",
    "render kuberay",
    "study --list",
    "tar",
}
"""They need no Ray and end at once: the default run has them, as they stand."""
NOT_RUN = {
    "bash jobs/quickstart.sh": "makes an environment; the verb that it ends with, quickstart, runs",
    "bash tests/run.sh": "runs this very test",
    "skillmatch serve": "holds port 8000 until it is stopped: tests/serving/test_serve.py runs it on a free one",
    "skillmatch benchmark serve": "the same port: tests/benchmarks/test_serve_benchmark.py",
    "curl -s localhost:8000": "asks that service: tests/serving/test_serve.py does",
    "ray job submit": "needs a cluster: tests/operations/test_jobs.py submits to one",
    "docker build": "needs Docker",
    "kubectl apply": "needs Kubernetes",
}
"""How commands begin that do not run here, and why."""
MAY_FAIL = {"doctor", "check-model"}
"""Their exit codes tell about this machine, and about a model of six steps."""
STANDS_FOR = {
    "study NAME": "pooling", "release activate NAME": "{release}", "benchmark search N": "1000",
    "sample data": "generated",
}  # fmt: skip
"""Verb and word of a page -> the word that is given: `data` is there already."""


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
    known = {"--help"}
    for parameter in command.params:
        known |= {*parameter.opts, *parameter.secondary_opts}  # the second are those like --no-peers
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


def leaves(command, names=()):
    """(name, command) of every verb."""
    for name, child in getattr(command, "commands", {}).items():
        yield from leaves(child, (*names, name))
    if not hasattr(command, "commands"):
        yield " ".join(names), command


@pytest.mark.parametrize(("name", "command"), leaves(typer.main.get_command(app)))
def test_every_verb_has_what_the_readme_says_of_all(name, command):
    options = {option for parameter in command.params for option in parameter.opts}
    assert command.epilog.startswith("Example: skillmatch ")
    assert command.help
    assert ("--report" in options) == (name not in {"serve", "render kuberay"})
    assert {"--config", "--set"} <= options or name in {"import-benchmark", "plan", "render kuberay"}


@pytest.fixture
def place(tiny_workspace, tmp_path, monkeypatch):
    """A directory in which the names that the pages use stand for something."""
    shutil.copytree(tiny_workspace.root, tmp_path / "workspace")
    (tmp_path / "data").symlink_to(tmp_path / "workspace" / "dataset")
    (tmp_path / "brief.json").write_text('{"title": "React developer", "skills": ["React"]}')
    (tmp_path / "names.jsonl").write_text('{"en": ["React"], "fr": ["React"], "de": ["React"]}')
    for name in ("cluster.yaml", "serve_config.yaml", "jobs", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path


def reason_not_to_run(words):
    return next((reason for start, reason in NOT_RUN.items() if shlex.join(words).startswith(start)), None)


def is_mention(words):
    """Whether it only names a verb in a sentence: an option that the verb cannot do without is left out."""
    _, command, rest = verb_of(words)
    needed = [parameter for parameter in command.params if parameter.required and parameter.opts[0].startswith("-")]
    return any(not set(parameter.opts) & set(rest) for parameter in needed)


def run_all(wanted, more=()):
    """Run the commands that are wanted, in the order of the pages; names of the verbs that ran.

    Args:
        wanted: name of a verb -> whether it is.
        more: options for every verb that takes them.
    """
    ran = set()
    for command in dict.fromkeys(shlex.join(parameter.values[0]) for parameter in commands()):
        words = shlex.split(command)
        name = name_of(words)
        if not reason_not_to_run(words) and name and wanted(name):
            run_one(name, words, more)
            ran.add(name)
    return ran


def name_of(words):
    """The verb, or the program where it is another one; nothing if the verb is only mentioned."""
    if words[0] != "skillmatch":
        return words[0]
    name, _, rest = verb_of(words)
    return "" if is_mention(words) else f"{name} --list" if "--list" in rest else name


def run_one(name, words, more):
    if words[0] != "skillmatch":
        subprocess.run(words, check=True)
        return
    arguments = [STANDS_FOR.get(f"{name} {word}", word) for word in words[1:]]
    arguments = [word.format(release=active_release(Workspace(Path("workspace"))).name) for word in arguments]
    _, command, _ = verb_of(words)
    if any("--config" in parameter.opts for parameter in command.params):
        arguments += more
    done = CliRunner().invoke(app, arguments)
    told = f"{shlex.join(words)}: {done.output[-3000:]} {done.exception!r}"
    assert done.exit_code == 0 or (name in MAY_FAIL and done.exit_code == 1), told


@pytest.mark.e2e
@pytest.mark.usefixtures("place")
def test_the_cheap_commands_run_as_they_stand():
    assert run_all(CHEAP.__contains__) == CHEAP


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.usefixtures("ray_session")
def test_all_other_commands_run_with_the_tiny_backbone(place, tiny_workspace):
    """In the order of the pages, so that one finds what an earlier one made."""
    write_foreign_files(place)
    ran = run_all(lambda name: name not in CHEAP, ("--config", str(tiny_workspace.config)))
    assert ran >= {"quickstart", "train", "encode", "evaluate", "reindex", "nightly", "compact", "study", "feedback"}


def write_foreign_files(place):
    """What a reader brings along: a taxonomy, the public benchmark, outcomes of a CRM."""
    write_taxonomy(builtin_taxonomy(), place / "DIR")
    person = {"headline": "React developer", "language": "en", "skills": ["React"], "experiences": []}
    tables = {
        "profiles": [{"profile_id": f"c{i}", **person} for i in range(12)],
        "briefs": [{"brief_id": f"b{i}", "title": "Shop in React"} for i in range(3)],
        "queries": [{"query_id": f"q{i}", "value": "React"} for i in range(3)],
        "outcomes": [{"project_id": "p1", "freelancer_id": "f1", "outcome": "selected"}],
    }
    for kind, key in (("brief", "b"), ("query", "q")):
        tables[f"{kind}_scores"] = [
            {f"{kind}_id": f"{key}{i}", "profile_id": f"c{j}", "score": 0.9 if (i + j) % 4 else 0.1}
            for i in range(3)
            for j in range(12)
        ]
    for name, rows in tables.items():
        (place / "DIR" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("FILES", "crm"):
        (place / name).symlink_to(place / "DIR")
    shown = ServedMatch(request_id="r1", project_id="p1", release="r", fingerprint="f", candidates=[("f1", 0.5)])
    ServedLog(Workspace(place / "workspace").served).record(shown)


def test_no_reason_outlives_its_command():
    known = [shlex.join(parameter.values[0]) for parameter in commands()]
    assert all(any(command.startswith(start) for command in known) for start in NOT_RUN)


def test_the_help_is_a_table_of_contents():
    shown = CliRunner().invoke(app, ["--help"]).output
    panels = re.findall(r"─ ([A-Z][a-z ]+) ─", shown)
    assert panels == ["Options", "Start here", "Data", "Model", "Search", "Operation", "Evidence"]
    for name, command in typer.main.get_command(app).commands.items():
        assert re.search(rf"│ {name} ", shown), name
        assert command.help, name


def test_every_fault_in_the_table_is_shown_by_a_test():
    text = (ROOT / "jobs" / "README.md").read_text()
    table = re.search(r"^\| fault \|.*\n.*\n((?:\|.*\n)+)", text, re.MULTILINE)[1].splitlines()
    named = [re.search(r"\| (tests/[\w/]+\.py)(?:::(\w+))? \|$", row).groups(default="test_") for row in table]
    assert len(named) >= 11
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
