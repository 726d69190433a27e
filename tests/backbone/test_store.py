"""Token states on disk: round trip, resume, torn parts, fingerprints."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from skillmatch_ray.backbone.encoder import TokenStates
from skillmatch_ray.backbone.store import BYTES_PER_VALUE, TokenStateStore, section_states
from skillmatch_ray.errors import FingerprintError

DIM = 4


def states_of(*lengths, seed=0):
    torch.manual_seed(seed)
    return TokenStates(torch.randn(sum(lengths), DIM), np.concatenate([[0], np.cumsum(lengths)]))


def open_store(path, fingerprint="f" * 64):
    return TokenStateStore(path, fingerprint, DIM)


def test_what_is_written_reads_back_in_half_precision(tmp_path):
    store, states = open_store(tmp_path), states_of(3, 1, 5)
    store.add(["a", "b", "ü"], states)
    for reader in (store, open_store(tmp_path)):
        assert len(reader) == 3
        for i, text in enumerate(["a", "b", "ü"]):
            assert text in reader
            assert reader.tokens(text) == len(states[i])
            assert torch.equal(reader.get(text), states[i].half())
        assert reader.nbytes() == 9 * DIM * BYTES_PER_VALUE
    assert "c" not in store
    with pytest.raises(KeyError):
        store.get("c")


def test_a_second_run_goes_on_where_the_first_was_cut(tmp_path):
    open_store(tmp_path).add(["a"], states_of(2))
    store = open_store(tmp_path)
    wanted = ["a", "b", "c"]
    missing = [text for text in wanted if text not in store]
    assert missing == ["b", "c"]
    store.add(missing, states_of(1, 4, seed=1))
    assert all(text in open_store(tmp_path) for text in wanted)
    assert torch.equal(open_store(tmp_path).get("a"), states_of(2)[0].half())


def test_other_writers_are_seen_after_a_refresh(tmp_path):
    reader = open_store(tmp_path)
    open_store(tmp_path).add(["a"], states_of(2))
    assert "a" not in reader
    reader.refresh()
    reader.refresh()
    assert "a" in reader
    assert len(list(reader.root.glob("*.bin"))) == len(reader._parts) == 1


def test_a_torn_part_does_not_exist(tmp_path):
    store = open_store(tmp_path)
    store.add(["a"], states_of(2))
    store.add(["b"], states_of(3, seed=1))
    next(p for p in tmp_path.glob("*.parquet") if p.name == min(store._known)).unlink()
    (tmp_path / ".x.parquet.1-2.tmp").write_bytes(b"half")
    (tmp_path / "lonely.bin").write_bytes(b"123")
    assert len(open_store(tmp_path)) == 1


CUT = """
    import os, signal, sys
    from pathlib import Path
    import numpy as np, pyarrow.parquet as pq, torch
    from skillmatch_ray.backbone.encoder import TokenStates
    from skillmatch_ray.backbone.store import TokenStateStore
    store = TokenStateStore(Path(sys.argv[1]), "f" * 64, 4)
    states = TokenStates(torch.ones(2, 4), np.array([0, 2]))
    store.add(["whole"], states)
    pq.write_table = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    store.add(["torn"], states)
"""


def test_a_kill_between_the_two_files_costs_only_that_part(tmp_path):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(CUT), str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    store = open_store(tmp_path)
    assert len(list(tmp_path.glob("*.bin"))) == 2
    assert ("whole" in store, "torn" in store) == (True, False)
    store.add(["torn"], states_of(3))
    assert torch.equal(open_store(tmp_path).get("torn"), states_of(3)[0].half())


def test_states_of_another_backbone_are_refused(tmp_path):
    open_store(tmp_path)
    with pytest.raises(FingerprintError, match="holds token states of backbone ffffffffffff, not of aaaaaaaaaaaa"):
        open_store(tmp_path, "a" * 64)
    with pytest.raises(FingerprintError):
        TokenStateStore(tmp_path, "f" * 64, DIM + 1)


def test_nothing_to_add_writes_nothing(tmp_path):
    open_store(tmp_path).add([], states_of())
    assert os.listdir(tmp_path) == ["store.json"]  # noqa: PTH208
    assert len(open_store(tmp_path)) == 0


def test_what_the_store_lacks_is_computed(tiny_backbone, tmp_path):
    texts = ["query: a", "query: the", "query: a", "passage: React"]
    store = TokenStateStore(tmp_path, tiny_backbone.fingerprint, tiny_backbone.dim)
    live = section_states(tiny_backbone, texts)
    store.add([texts[1]], tiny_backbone.encode([texts[1]]))
    mixed = section_states(tiny_backbone, texts, store)
    store.add([texts[0], texts[3]], tiny_backbone.encode([texts[0], texts[3]]))
    cached = section_states(tiny_backbone, texts, store)
    for a, b, c in zip(live, mixed, cached, strict=True):
        torch.testing.assert_close(a, b.float(), atol=2e-3, rtol=0)
        torch.testing.assert_close(a, c.float(), atol=2e-3, rtol=0)
    assert torch.equal(live[0], mixed[0])
