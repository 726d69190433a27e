"""Reading tables in every form, with every kind of bad row."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skillmatch_ray.dataset import FREELANCERS, INTERACTIONS, PROJECTS, QRELS, BadRow, Dataset, IdIndex, TableReport
from skillmatch_ray.errors import DatasetError


def person(i, **fields):
    return {"freelancer_id": f"f{i}", "headline": f"Engineer {i}", **fields}


def lines(*rows):
    return b"".join(r if isinstance(r, bytes) else json.dumps(r).encode() + b"\n" for r in rows)


def write(root, name, *rows):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".parquet"):
        pq.write_table(rows[0] if isinstance(rows[0], pa.Table) else pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_bytes(gzip.compress(lines(*rows)) if name.endswith(".gz") else lines(*rows))
    return root


def read(root, kind=FREELANCERS):
    """(good ids, bad rows, report) of one table; every row is accounted for."""
    report, bad = TableReport(kind.name), list[BadRow]()
    good = list(Dataset(root).read(kind, report, bad.append))
    assert report.rows == len(good) + len(bad)
    assert (report.good, report.bad) == (len(good), len(bad)) == (len(good), sum(report.reasons.values()))
    return good, bad, report


def ids(rows):
    return [row.id for row in rows]


@pytest.mark.parametrize("name", ["freelancers.jsonl", "freelancers.jsonl.gz", "freelancers.parquet"])
def test_every_form_gives_the_same_rows(tmp_path, name):
    rows = [person(i, skills=["SQL", f"s{i}"], experiences=[{"title": "x", "skills": ["y"]}]) for i in range(5)]
    good, bad, report = read(write(tmp_path, name, *rows))
    assert [row.headline for row in good] == [row["headline"] for row in rows]
    assert good[3].skills == ("SQL", "s3")
    assert good[3].experiences[0].skills == ("y",)
    assert not bad
    assert report.bytes_read == (tmp_path / name).stat().st_size


def test_a_folder_of_parts_is_read_in_order_and_ids_are_unique_over_all(tmp_path):
    write(tmp_path, "freelancers/part-2.jsonl", person(3), person(1))
    write(tmp_path, "freelancers/part-1.parquet", person(1), person(2))
    write(tmp_path, "freelancers/part-3.jsonl.gz", person(4))
    (tmp_path / "freelancers" / ".part-4.jsonl").write_text("torn")
    (tmp_path / "freelancers" / "_SUCCESS").touch()
    good, bad, report = read(tmp_path)
    assert ids(good) == ["f1", "f2", "f3", "f4"]
    assert [(row.file, row.row, row.id) for row in bad] == [(str(tmp_path / "freelancers" / "part-2.jsonl"), 2, "f1")]
    assert report.reasons == {"duplicate id": 1}


def test_two_forms_of_one_table_are_refused(tmp_path):
    write(tmp_path, "freelancers.jsonl", person(1))
    write(tmp_path, "freelancers/part.jsonl", person(2))
    with pytest.raises(DatasetError, match=r"several forms \(freelancers\.jsonl, freelancers\)"):
        read(tmp_path)
    with pytest.raises(DatasetError, match="several forms"):
        Dataset(write(tmp_path, "projects.parquet", {"project_id": "p", "title": "t"})).parts(FREELANCERS)


def test_a_missing_table_or_directory_is_told(tmp_path):
    assert not Dataset(tmp_path).has(PROJECTS)
    with pytest.raises(DatasetError, match=r"lacks table 'projects': put projects\.parquet, projects\.jsonl"):
        list(Dataset(tmp_path).read(PROJECTS))
    with pytest.raises(DatasetError, match="nowhere is not a directory"):
        list(Dataset(tmp_path / "nowhere").read(PROJECTS))


def test_bad_lines_cost_only_themselves(tmp_path):
    write(
        tmp_path, "freelancers.jsonl",
        person(0),
        b'{"freelancer_id": "f1", "headline": "caf\xe9"}\n',
        b"{not json\n",
        b"\n",
        b"[1, 2]\n",
        b'{"freelancer_id": "f5", "headline": "x", "daily_rate_eur": ' + b"9" * 5000 + b"}\n",
        b"[" * 100_000 + b"\n",
        person(7, latitude=95, longitude=4),
        person(8, skills="SQL"),
        person(9, headline=" "),
        {"headline": "nobody"},
        person(0, headline="again"),
        person(11, updated_at="0001-01-01T00:00:00+05:00"),
        person(12, latitude=5.0),
        person(13),
    )  # fmt: skip
    good, bad, report = read(tmp_path)
    assert ids(good) == ["f0", "f13"]
    assert [row.row for row in bad] == [2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    assert report.reasons == {
        "broken UTF-8": 1,
        "not JSON": 3,
        "not an object": 1,
        "latitude: Input should be less than or equal to 90": 1,
        "skills: Input should be a valid tuple": 1,
        "headline: missing": 1,
        "freelancer_id: missing": 1,
        "duplicate id": 1,
        "updated_at: the moment is outside the years 1 to 9999 in UTC": 1,
        "row: latitude and longitude must both be given or both be missing": 1,
    }
    reasons = {row.row: row.reason for row in bad}
    assert reasons[2] == "broken UTF-8 (byte 40)"
    assert reasons[8] == "latitude: Input should be less than or equal to 90 (given: 95)"
    assert reasons[12] == "duplicate id (f0)"
    assert reasons[14].endswith("must both be given or both be missing (given: 5.0, None)")


def test_kinds_of_problem_do_not_grow_with_the_rows(tmp_path):
    rows = [person(i, latitude=100.0 + i, longitude=0) for i in range(20)]
    rows += [person(1, headline=f"h{i}") for i in range(20)]
    rows += [person(i, experiences=[{}] * (i % 9) + [{"title": ["x"]}]) for i in range(20)]
    _, _, report = read(write(tmp_path, "freelancers.jsonl", *rows))
    assert len(report.reasons) == 3


def test_all_that_is_wrong_with_a_row_is_told_shortly(tmp_path):
    _, bad, _ = read(
        write(tmp_path, "freelancers.jsonl", person(1, headline={"x": "y" * 10**6}, country="1", remote=7))
    )
    assert bad[0].reason.startswith("country: ")
    assert "also headline: " in bad[0].reason
    assert "also remote: " in bad[0].reason
    assert len(bad[0].reason) < 400


def test_an_id_with_broken_characters_can_be_written_down(tmp_path):
    write(
        tmp_path, "freelancers.jsonl", b'{"freelancer_id": "f\\ud800", "headline": "", "language": "\\ud800\\ud800"}\n'
    )
    _, bad, _ = read(tmp_path)
    assert bad[0].id == "f?"
    assert bad[0].reason.encode()


def test_nan_is_a_missing_value(tmp_path):
    write(tmp_path, "freelancers.jsonl", person(1, latitude=math.nan, longitude=math.nan, description=math.nan))
    good, bad, _ = read(tmp_path)
    assert not bad
    assert (good[0].latitude, good[0].longitude, good[0].description) == (None, None, None)


def test_a_byte_order_mark_is_no_problem(tmp_path):
    write(tmp_path, "freelancers.jsonl", b"\xef\xbb\xbf" + lines(person(1)), person(2))
    assert ids(read(tmp_path)[0]) == ["f1", "f2"]


def test_a_megabyte_of_description_is_read(tmp_path):
    for name in ("freelancers.jsonl", "freelancers.parquet"):
        root = write(tmp_path / name, name, person(1, description="x" * 2**20), person(2))
        good, bad, _ = read(root)
        assert len(good[0].description) == 2**20
        assert not bad


def broken_utf8_table(column="headline", rows=5, broken=2):
    texts = [f"text {i}".encode() for i in range(rows)]
    texts[broken] = b"caf\xe9"
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    array = pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(b"".join(texts)))
    columns = {"freelancer_id": pa.array([f"f{i}" for i in range(rows)]), "headline": array}
    return pa.table(
        columns | {column: array} if column == "headline" else columns | {column: array, "headline": ["h"] * rows}
    )


def test_broken_utf8_in_parquet_costs_only_its_row(tmp_path):
    good, bad, report = read(write(tmp_path, "freelancers.parquet", broken_utf8_table()))
    assert ids(good) == ["f0", "f1", "f3", "f4"]
    assert [(row.row, row.reason) for row in bad] == [(3, "broken UTF-8 (byte 3 of a text)")]
    assert report.reasons == {"broken UTF-8": 1}


def test_what_no_field_has_is_not_even_read(tmp_path):
    good, bad, report = read(write(tmp_path, "freelancers.parquet", broken_utf8_table("notes")))
    assert len(good) == 5
    assert not bad
    assert report.unknown_columns == ("notes",)


def test_broken_utf8_inside_a_list_and_in_binary_columns(tmp_path):
    bad_list = pa.ListArray.from_arrays(
        pa.array([0, 1, 2], pa.int32()), broken_utf8_table(rows=2, broken=1)["headline"].chunk(0)
    )
    table = pa.table({"freelancer_id": ["a", "b"], "headline": ["x", "y"], "skills": bad_list})
    assert ids(read(write(tmp_path / "list", "freelancers.parquet", table))[0]) == ["a"]
    table = pa.table({"freelancer_id": ["a", "b"], "headline": pa.array([b"ok", b"\xff"], pa.binary())})
    good, bad, _ = read(write(tmp_path / "binary", "freelancers.parquet", table))
    assert ids(good) == ["a"]
    assert bad[0].reason.startswith("headline: ")


def test_parquet_without_a_known_column_still_has_rows(tmp_path):
    good, bad, report = read(write(tmp_path, "freelancers.parquet", pa.table({"id": [1, 2, 3]})))
    assert (good, len(bad), report.unknown_columns) == ([], 3, ("id",))


def test_parquet_types_are_read_as_meant(tmp_path):
    table = pa.table(
        {
            "freelancer_id": pa.array([7, 8], pa.int64()),
            "headline": pa.array(["a", "b"]).dictionary_encode(),
            "updated_at": pa.array([0, None], pa.timestamp("ns")),
            "available_from": pa.array([0, None], pa.date32()),
            "remote": pa.array([True, None]),
            "daily_rate_eur": pa.array([math.nan, 300.0], pa.float32()),
        }
    )
    good, bad, _ = read(write(tmp_path, "freelancers.parquet", table))
    assert not bad
    assert ids(good) == ["7", "8"]
    assert (good[0].updated_at.year, good[0].available_from.isoformat(), good[0].daily_rate_eur) == (
        1970,
        "1970-01-01",
        None,
    )


def test_row_numbers_go_on_over_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("skillmatch_ray.dataset.READ_ROWS", 3)
    _, bad, _ = read(write(tmp_path, "freelancers.parquet", *(person(i if i != 7 else 6) for i in range(10))))
    assert [(row.row, row.id) for row in bad] == [(8, "f6")]


@pytest.mark.parametrize(("name", "keep"), [("freelancers.jsonl.gz", 0.7), ("freelancers.parquet", 0.5)])
def test_a_torn_file_is_told_and_not_taken_for_whole(tmp_path, name, keep):
    path = write(tmp_path, name, *(person(i, description=f"{i * 7919}") for i in range(300))) / name
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(DatasetError, match=rf"{name} is .*copy it again"):
        read(tmp_path)


def test_a_file_that_is_not_gzip_or_has_rotten_pages_is_told(tmp_path):
    (tmp_path / "freelancers.jsonl.gz").write_bytes(lines(person(1)))
    with pytest.raises(DatasetError, match="damaged after line 0"):
        read(tmp_path)
    write(tmp_path, "projects.parquet", *({"project_id": f"p{i}", "title": f"{i * 7919}"} for i in range(900)))
    rotten = bytearray((tmp_path / "projects.parquet").read_bytes())
    rotten[8:200] = bytes(192)
    (tmp_path / "projects.parquet").write_bytes(rotten)
    with pytest.raises(DatasetError, match="not readable as Parquet after row 0"):
        read(tmp_path, PROJECTS)


def test_unknown_columns_are_named_once(tmp_path):
    write(tmp_path, "freelancers.jsonl", person(1, age=3), person(2, shoe=4, age=5), person(3), person(4, age=1))
    good, _, report = read(tmp_path)
    assert len(good) == 4
    assert report.unknown_columns == ("age", "shoe")


def test_interactions_may_repeat_and_judgements_may_not(tmp_path):
    pair = {"project_id": "p", "freelancer_id": "f"}
    write(
        tmp_path,
        "interactions.jsonl",
        pair | {"outcome": "selected"},
        pair | {"outcome": "selected"},
        pair | {"outcome": "liked"},
    )
    good, bad, _ = read(tmp_path, INTERACTIONS)
    assert len(good) == 2
    assert bad[0].id == "p/f"
    assert bad[0].reason.startswith("outcome: Input should be 'selected'")
    write(tmp_path, "qrels.jsonl", pair | {"grade": 3}, pair | {"grade": 0}, pair | {"freelancer_id": "g", "grade": 4})
    good, bad, report = read(tmp_path, QRELS)
    assert len(good) == 1
    assert report.reasons == {"duplicate id": 1, "grade: Input should be less than or equal to 3": 1}


def mixed_row(i, rng):
    """A freelancer with a random part of the optional fields, null, missing or NaN."""
    optional = {
        "description": "Built things.", "skills": ["SQL"], "soft_skills": [], "experiences": [{"title": "Lead"}],
        "language": "de", "job_category": "it", "spoken_languages": ["de", "EN"], "country": "at", "city": "Wien",
        "mobility_radius_km": 30, "remote": True, "daily_rate_eur": 400.5, "available_from": "2025-05-01",
        "updated_at": "2025-01-01T10:00:00Z",
    }  # fmt: skip
    row = person(i)
    for name, value in optional.items():
        fate = rng.integers(4)
        if fate:
            row[name] = {1: value, 2: None, 3: math.nan}[int(fate)]
    if rng.integers(2):
        row |= {"latitude": 48.2, "longitude": 16.4}
    return row


def test_fifty_freelancers_with_mixed_missing_fields(tmp_path):
    rng = np.random.default_rng(5)
    rows = [mixed_row(i, rng) for i in range(50)]
    good, bad, report = read(write(tmp_path, "freelancers.jsonl", *rows))
    assert not bad
    assert ids(good) == [f"f{i}" for i in range(50)]
    for row, found in zip(rows, good, strict=True):
        given = row.get("description")
        assert found.description == (given if isinstance(given, str) else None)
        assert found.skills == (("SQL",) if isinstance(row.get("skills"), list) else ())
        assert (found.latitude is None) == ("latitude" not in row)
    assert report.unknown_columns == ()


def test_an_index_of_ids_tells_parts_of_keys_apart():
    index = IdIndex()
    assert index.add("a", "bc")
    assert index.add("ab", "c")
    assert not index.add("a", "bc")
    assert all(index.add(f"f{i}") for i in range(10_000))
    assert len(index) == 10_002
    assert "f9999" in index
    assert "f10000" not in index
