"""Files that a kill leaves whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from skillmatch_ray.errors import LockedError
from skillmatch_ray.files import atomic_directory, atomic_file, hash_files, hash_json, owner_lock, read_json, write_json


def names(path):
    return sorted(p.name for p in path.iterdir())


def cut_short(path):
    path.write_text("half")
    raise RuntimeError("cut")


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "report.json"
    write_json(target, {"ü": 1})
    with pytest.raises(RuntimeError, match="cut"), atomic_file(target) as temporary:
        cut_short(temporary)
    assert read_json(target) == {"ü": 1}
    assert names(target.parent) == ["report.json"]
    assert "ü" in target.read_text(encoding="utf-8")


def test_a_directory_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"
    for content in ("one", "two"):
        with atomic_directory(target) as temporary:
            (temporary / "weights").write_text(content)
    with pytest.raises(RuntimeError, match="cut"), atomic_directory(target) as temporary:
        cut_short(temporary / "weights")
    assert (target / "weights").read_text() == "two"
    assert names(tmp_path) == ["model"]


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.json"
    write_json(target, [1])
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="Circular"):
        write_json(target, loop)
    assert read_json(target) == [1]


def test_bad_json_names_the_file(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")


def test_hashes_tell_content_names_and_order_apart(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("a")
    two.write_text("b")
    before = hash_files([one, two])
    assert before != hash_files([two, one])
    two.write_text("c")
    assert before != hash_files([one, two])
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": "1"})


HOLDER = """
    import sys, time
    from pathlib import Path
    from skillmatch_ray.files import owner_lock
    with owner_lock(Path(sys.argv[1]), "skillmatch encode"):
        print("held", flush=True)
        time.sleep(60)
"""


def test_a_lock_has_one_owner_and_outlives_no_kill(tmp_path):
    lock = tmp_path / "vectors" / ".lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(lock)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"skillmatch encode by .*process {holder.pid}"), owner_lock(lock, "me"):
            pass
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with owner_lock(lock, "me"):
        assert f"process {os.getpid()}" in lock.read_text()
