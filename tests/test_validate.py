"""Validation of a whole dataset: counts, references, quarantine, limits, reports."""

from __future__ import annotations

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from skillmatch_ray.config import DatasetSettings
from skillmatch_ray.dataset import Dataset, TableReport
from skillmatch_ray.errors import DatasetError
from skillmatch_ray.validate import QUARANTINE_FILE, check_bad_share, validate_dataset

OUTCOME_REFUSED = (
    "outcome: Input should be 'selected', 'accepted', 'company_declined_skills', 'freelancer_declined_skills', "
    "'declined_price', 'declined_dates', 'declined_other' or 'no_answer'"
)
LENIENT = DatasetSettings(max_bad_share=1.0)


def person(i, **fields):
    return {"freelancer_id": f"f{i}", "headline": f"Engineer {i}", **fields}


def brief(i, **fields):
    return {"project_id": f"p{i}", "title": f"Project {i}", **fields}


def contact(p, f, **fields):
    return {"project_id": f"p{p}", "freelancer_id": f"f{f}", "outcome": "selected", **fields}


def grade(p, f, value=2):
    return {"project_id": f"p{p}", "freelancer_id": f"f{f}", "grade": value}


def write(root, **tables):
    root.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return Dataset(root)


@pytest.fixture
def messy(tmp_path):
    """One problem of each kind, among good rows."""
    return write(
        tmp_path / "data",
        freelancers=[
            person(0), person(1, age=3), person(2, headline=""), person(0), person(3, latitude=99, longitude=0),
        ],
        projects=[brief(0, budget=1), brief(1, description="x" * 2**20), brief(2, title=None)],
        interactions=[contact(0, 0), contact(9, 0), contact(0, 2), contact(1, 1), contact(8, 8, outcome="liked")],
        qrels=[grade(0, 0), grade(0, 0, 3), grade(1, 7)],
    )  # fmt: skip


def quarantined(folder):
    return [json.loads(line) for line in (folder / QUARANTINE_FILE).read_text(encoding="utf-8").splitlines()]


def shown(report, width=120):
    target = Console(width=width, file=open(os.devnull, "w"), record=True)  # noqa: PTH123, SIM115
    target.print(report.render())
    return target.export_text()


def test_every_row_is_counted_and_every_bad_one_explained(messy, tmp_path):
    report = validate_dataset(messy, tmp_path / "quarantine", LENIENT)
    assert report.as_dict() == {
        "counts": {"freelancers": 2, "projects": 2, "interactions": 2, "qrels": 1},
        "quarantined": {"freelancers": 3, "projects": 1, "interactions": 3, "qrels": 2},
        "reasons": {
            "freelancers": {
                "headline: missing": 1,
                "duplicate id": 1,
                "latitude: Input should be less than or equal to 90": 1,
            },
            "projects": {"title: missing": 1},
            "interactions": {
                "unknown project": 1,
                "unknown freelancer": 1,
                OUTCOME_REFUSED: 1,
            },
            "qrels": {"duplicate id": 1, "unknown freelancer": 1},
        },
        "unknown_columns": {"freelancers": ["age"], "projects": ["budget"], "interactions": [], "qrels": []},
        "cut_at_encoding": {"freelancers": 0, "projects": 1},
        "missing_tables": [],
        "quarantine": str(tmp_path / "quarantine" / QUARANTINE_FILE),
    }
    assert report.quarantined == 9
    json.dumps(report.as_dict())


def test_the_quarantine_file_names_table_file_row_id_and_reason(messy, tmp_path):
    validate_dataset(messy, tmp_path / "q", LENIENT)
    rows = quarantined(tmp_path / "q")
    assert len(rows) == 9
    assert all(row.keys() == {"table", "file", "row", "id", "reason"} for row in rows)
    assert {"table": "interactions", "file": str(messy.root / "interactions.jsonl"), "row": 2, "id": "p9/f0",
            "reason": "unknown project (p9)"} in rows  # fmt: skip
    assert {"table": "qrels", "file": str(messy.root / "qrels.jsonl"), "row": 3, "id": "p1/f7",
            "reason": "unknown freelancer (f7)"} in rows  # fmt: skip


def test_a_row_that_was_set_aside_cannot_be_pointed_to(messy, tmp_path):
    validate_dataset(messy, tmp_path / "q", LENIENT)
    assert [row["reason"] for row in quarantined(tmp_path / "q") if row["id"] == "p0/f2"] == ["unknown freelancer (f2)"]


def test_too_many_bad_rows_stop_the_job_but_the_list_of_them_is_written(messy, tmp_path):
    with pytest.raises(DatasetError, match=r"3 of 5 rows of table 'freelancers' are bad \(1 x headline: missing") as e:
        validate_dataset(messy, tmp_path / "q", DatasetSettings())
    assert str(tmp_path / "q" / QUARANTINE_FILE) in str(e.value)
    assert len(quarantined(tmp_path / "q")) == 9
    with pytest.raises(DatasetError, match="list them with `skillmatch validate`"):
        validate_dataset(messy, None, DatasetSettings())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "q"]


def test_the_limit_is_a_share_of_each_table_and_may_be_reached(tmp_path):
    people = [person(i) for i in range(19)]
    data = write(tmp_path, freelancers=[*people, person(0)])
    assert validate_dataset(data, None, DatasetSettings(max_bad_share=0.05)).quarantined == 1
    data = write(tmp_path, freelancers=[*people[1:], person(1), person(2)])
    with pytest.raises(DatasetError, match="2 of 20 rows"):
        validate_dataset(data, None, DatasetSettings(max_bad_share=0.05))
    check_bad_share(TableReport("qrels"), 0.0)


def test_a_clean_dataset_leaves_an_empty_quarantine_file_where_an_old_one_stood(tmp_path):
    data = write(tmp_path / "data", freelancers=[person(0), person(0)])
    validate_dataset(data, tmp_path / "q", LENIENT)
    assert len(quarantined(tmp_path / "q")) == 1
    report = validate_dataset(write(tmp_path / "data", freelancers=[person(0)]), tmp_path / "q", DatasetSettings())
    assert quarantined(tmp_path / "q") == []
    assert report.quarantined == 0


def test_optional_tables_may_be_missing_and_are_told(tmp_path):
    report = validate_dataset(write(tmp_path, freelancers=[person(0)]), None, DatasetSettings())
    assert report.missing == ("projects", "interactions", "qrels")
    assert "no table 'interactions': it is needed for training, and evaluation without qrels only" in shown(report)


def test_without_projects_the_cause_is_told(tmp_path):
    data = write(tmp_path, freelancers=[person(0)], interactions=[contact(0, 0)])
    with pytest.raises(DatasetError, match=r"1 x unknown project: there is no table 'projects'"):
        validate_dataset(data, None, DatasetSettings())


@pytest.mark.parametrize("people", [[], [person(0, headline="")]])
def test_without_a_good_freelancer_there_is_nothing_to_find(tmp_path, people):
    with pytest.raises(DatasetError, match="no good row in table 'freelancers'"):
        validate_dataset(write(tmp_path, freelancers=people, projects=[brief(0)]), None, LENIENT)
    with pytest.raises(DatasetError, match="lacks table 'freelancers'"):
        validate_dataset(write(tmp_path / "other", projects=[brief(0)]), tmp_path / "q", LENIENT)
    assert not (tmp_path / "q").exists()


def test_a_torn_file_leaves_the_old_quarantine_file(tmp_path):
    data = write(tmp_path / "data", freelancers=[person(0), person(0)])
    validate_dataset(data, tmp_path / "q", LENIENT)
    before = (tmp_path / "q" / QUARANTINE_FILE).read_bytes()
    (data.root / "projects.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(DatasetError, match=r"projects\.parquet is not readable"):
        validate_dataset(data, tmp_path / "q", LENIENT)
    assert (tmp_path / "q" / QUARANTINE_FILE).read_bytes() == before
    assert [p.name for p in (tmp_path / "q").iterdir()] == [QUARANTINE_FILE]


def test_broken_characters_in_ids_and_file_names_do_not_break_the_list(tmp_path):
    part = tmp_path / "data" / "freelancers" / os.fsdecode(b"part-\xff.jsonl")
    part.parent.mkdir(parents=True)
    part.write_bytes(b'{"freelancer_id": "\\ud800x", "headline": ""}\n{"freelancer_id": "a", "headline": "b"}\n')
    validate_dataset(Dataset(tmp_path / "data"), tmp_path / "q", LENIENT)
    assert [(row["id"], row["row"]) for row in quarantined(tmp_path / "q")] == [("?x", 1)]


def test_the_summary_tells_people_everything(messy, tmp_path):
    text = shown(validate_dataset(messy, tmp_path / "q", LENIENT), width=200)
    for expected in (
        "freelancers", "cut at encoding", "1 x duplicate id", "1 x unknown project",
        "freelancers: unknown columns are left out: age", str(tmp_path / "q" / QUARANTINE_FILE),
    ):  # fmt: skip
        assert expected in text


def test_names_with_brackets_are_shown_as_they_are(tmp_path):
    data = write(tmp_path, freelancers=[person(0, **{"[bold]x[/nothing]": 1})])
    assert "[bold]x[/nothing]" in shown(validate_dataset(data, None, DatasetSettings()))


def test_a_table_of_parts_with_other_columns_in_each(tmp_path):
    folder = tmp_path / "freelancers"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist([person(0, a=1)]), folder / "1.parquet")
    pq.write_table(pa.Table.from_pylist([person(1, b=1)]), folder / "2.parquet")
    report = validate_dataset(Dataset(tmp_path), None, DatasetSettings())
    assert report.tables[0].unknown_columns == ("a", "b")


def test_progress_goes_by_bytes_to_the_end(messy, tmp_path, monkeypatch):
    monkeypatch.setattr("skillmatch_ray.validate.PROGRESS_ROWS", 1)
    seen = []
    validate_dataset(messy, None, LENIENT, lambda done, total, note: seen.append((done, total, note)))
    total = sum(p.stat().st_size for p in messy.root.iterdir())
    assert {total for _, total, _ in seen} == {total}
    assert [done for done, *_ in seen] == sorted(done for done, *_ in seen)
    assert seen[-1] == (total, total, "qrels: 3 rows")


def test_long_texts_are_counted_wherever_they_stand(tmp_path):
    people = [
        person(0, experiences=[{"title": "x" * 11}, {"description": "y" * 11}]),
        person(1, skills=["z" * 6, "z" * 6]),
    ]
    report = validate_dataset(write(tmp_path, freelancers=people), None, DatasetSettings(long_text_characters=10))
    assert report.cut == {"freelancers": 3}
