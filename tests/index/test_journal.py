"""The journal of online changes: durable, torn lines cut off, shortened without forgetting the deleted."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import pytest
from index_helpers import DIM, FINGERPRINT

from skillmatch_ray.documents import Freelancer
from skillmatch_ray.errors import ReleaseError
from skillmatch_ray.index.journal import Entry, Journal, Position, id_key

VECTOR = np.linspace(-1, 1, DIM).astype(np.float32)


def person(name: str, **fields: object) -> Freelancer:
    return Freelancer.model_validate({"freelancer_id": name, "headline": "h", **fields})


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "vectors" / "journal.jsonl")


def test_what_is_written_is_read_back(journal: Journal) -> None:
    row = person('a"\n', skills=["x"], available_from="2026-01-01", spoken_languages=["fr"])
    journal.upsert(row, VECTOR, FINGERPRINT)
    journal.delete("b")
    first, second = journal.read()[0]
    assert (first.seq, first.op, first.freelancer, first.fingerprint) == (1, "upsert", row, FINGERPRINT)
    np.testing.assert_array_equal(first.vector, VECTOR)
    assert (second.seq, second.op, second.freelancer_id, second.key) == (2, "delete", "b", id_key("b"))


def test_reading_goes_on_where_it_ended(journal: Journal) -> None:
    journal.delete("a")
    _, position = journal.read()
    assert position == journal.position()
    assert journal.read(1, position) == ([], position)
    journal.delete("b")
    entries, _ = journal.read(1, position)
    assert [entry.freelancer_id for entry in entries] == ["b"]


def test_an_empty_journal_has_no_end(journal: Journal) -> None:
    assert journal.position() == Position()
    assert journal.read() == ([], Position())
    assert journal.last_seq() == 0


def test_a_torn_last_line_was_never_accepted(journal: Journal) -> None:
    journal.delete("a")
    with journal.path.open("ab") as file:
        file.write(b'{"seq": 2, "op": "del')
    assert [entry.freelancer_id for entry in journal.read()[0]] == ["a"]
    Journal(journal.path).delete("b")
    assert [(entry.seq, entry.freelancer_id) for entry in journal.read()[0]] == [(1, "a"), (2, "b")]


def test_a_damaged_line_in_the_middle_is_told(journal: Journal) -> None:
    journal.delete("a")
    with journal.path.open("ab") as file:
        file.write(b"garbage\n")
    with pytest.raises(ReleaseError, match="damaged"):
        journal.read()


def test_two_writers_never_share_a_number(journal: Journal) -> None:
    other = Journal(journal.path)
    for i in range(6):
        (journal if i % 2 else other).delete(str(i))
    assert [entry.seq for entry in journal.read()[0]] == [1, 2, 3, 4, 5, 6]


def test_compaction_keeps_the_last_word_and_erases_the_deleted(journal: Journal) -> None:
    journal.upsert(person("kept", headline="old"), VECTOR, FINGERPRINT)
    journal.upsert(person("gone-person"), VECTOR, FINGERPRINT)
    journal.upsert(person("kept", headline="new"), VECTOR, FINGERPRINT)
    journal.delete("gone-person")
    assert journal.compact() == 2
    assert "gone-person" not in journal.path.read_text()
    state = journal.state()
    kept, gone = state[id_key("kept")].freelancer, state[id_key("gone-person")]
    assert kept is not None
    assert kept.headline == "new"
    assert (gone.op, gone.freelancer_id, gone.freelancer) == ("delete", None, None)
    assert journal.delete("x").seq == 5  # numbers go on
    assert Journal(journal.path).compact() == 0


def test_numbers_go_on_when_compaction_drops_the_newest(journal: Journal) -> None:
    journal.path.parent.mkdir(parents=True)
    journal.path.write_text(json.dumps({"seq": 41}) + "\n")
    assert journal.delete("x").seq == 42


def test_a_row_updated_after_an_online_change_wins_but_never_over_a_delete() -> None:
    at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    upsert, delete = Entry(1, at, "upsert", "k"), Entry(1, at, "delete", "k")
    later, earlier = person("k", updated_at="2026-01-02"), person("k", updated_at="2025-01-02")
    assert not upsert.beats(later)
    assert upsert.beats(earlier)
    assert upsert.beats(person("k"))
    assert delete.beats(later)
