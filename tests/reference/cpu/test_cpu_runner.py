"""The runner: threads, memory, files, faults."""

from __future__ import annotations

import tempfile
from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from moesim.errors import ConfigError
from moesim.reference.cpu import CpuRunner, backing, pool
from moesim.reference.layer import Case, LayerShape

SMALL = LayerShape("small", 8, 2, 64, 32)


def blas_threads() -> set[int]:
    return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}


def test_blas_has_one_thread_while_open():
    with threadpool_limits(2, user_api="blas"):
        with CpuRunner(memory_bytes=2**20):
            assert blas_threads() == {1}
        assert blas_threads() == {2}
        with pytest.raises(KeyboardInterrupt), CpuRunner(memory_bytes=2**20):
            raise KeyboardInterrupt
        assert blas_threads() == {2}
        forgotten = CpuRunner(memory_bytes=2**20)
        del forgotten
        assert blas_threads() == {2}


@pytest.mark.parametrize(
    ("caches", "free", "limit", "bytes_", "cold"),
    [
        ({"L2": 2**21, "L3": 300 * 2**20}, 2**36, None, 600 * 2**20, True),
        ({"L3": 2**25}, 2**36, None, 128 * 2**20, True),
        ({"L3": 2**30}, 2**36, None, 2**30, False),
        ({"L3": 2**30}, 2**36, 2**32, 2**31, True),
        ({"L3": 300 * 2**20}, 2**30, None, 2**28, False),
        ({}, None, None, 128 * 2**20, True),
        ({}, 2**36, 2**22, 2**22, False),
    ],
    ids=["server", "laptop", "huge", "huge-allowed", "little-memory", "unknown", "limited"],
)
def test_size_of_the_pool(monkeypatch, caches, free, limit, bytes_, cold):
    monkeypatch.setattr(pool, "caches_bytes", lambda: caches)
    monkeypatch.setattr(pool, "memory_bytes", lambda: {"total": free, "available": free})
    size = pool.choose(limit)
    assert (size.bytes, size.cold, size.known) == (bytes_, cold, bool(caches))
    assert ("cold" if cold else "may be warm") in str(size)


def test_pool_is_good_in_both_types():
    words = np.zeros(10 * pool.PERIOD // 4, np.uint16)
    pool.fill(words)
    floats = words[: len(words) // 2 * 2].view(np.float32)
    assert np.isfinite(floats).all()
    assert floats.std() == pytest.approx(pool.SCALE, rel=0.01)
    assert abs(floats.mean()) < 0.01 * pool.SCALE
    assert (np.abs(floats[floats != 0]) > 1e-10).all()


def test_ring_passes_through_everything_before_it_comes_back():
    ring = pool.Ring(64, 64 + 10 * 32)
    starts = [int(ring.cut(1, 40)[0]) for _ in range(7)]  # 40 words take two lines of 32
    assert starts == [64, 128, 192, 256, 320, 64, 128]
    with pytest.raises(ConfigError, match="larger than the pool"):
        ring.cut(1, 400)
    assert len(ring.cut(0, 400)) == 0


def test_file_is_gone_when_closed(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with CpuRunner(memory_bytes=2**20, backing="file") as runner:
        prepared = runner.prepare(Case(SMALL, 20, offloaded=0.5))
        assert prepared.run().loaded.sum() == 4
        file = runner._pool._file
    assert file.closed
    assert list(tmp_path.iterdir()) == []


def test_file_without_room(monkeypatch):
    class Full:
        closed = False

        def write(self, _data):
            raise OSError(28, "No space left on device")

        def close(self):
            Full.closed = True

    monkeypatch.setattr(backing.tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(ConfigError, match=r"no space left on device.*2 MB of room"):
        backing.file_of(np.zeros(10**6, np.uint16))
    assert Full.closed


def test_file_that_cannot_be_read_any_more():
    with CpuRunner(memory_bytes=2**20, backing="file") as runner:
        prepared = runner.prepare(Case(SMALL, 20, offloaded=0.5))
        runner._pool._file.truncate(0)
        with pytest.raises(ConfigError, match="cannot be read"):
            prepared.run()


def test_all_faults_at_once():
    case = Case(replace(SMALL, top_k=9), 0, offloaded=1.5, dtype="fp8")
    with CpuRunner(memory_bytes=2**20) as runner:
        with pytest.raises(ConfigError) as caught:
            runner.prepare(case)
        assert {fault.where for fault in caught.value.faults} == {
            "dtype",
            "offloaded",
            "small.top_k",
            "tokens",
        }
        with pytest.raises(ConfigError, match=r"an array \(5, 2\)"):
            runner.prepare(Case(SMALL, 5), np.zeros((5, 3), np.int32))
        for wrong in (8, -1):
            with pytest.raises(ConfigError, match=rf"got {wrong}\); allowed: 0 to 7"):
                runner.prepare(Case(SMALL, 5), np.full((5, 2), wrong, np.int32))
    with pytest.raises(ConfigError, match="memory, file"):
        CpuRunner(backing="tape")
    with pytest.raises(ConfigError, match="1 MiB"):
        CpuRunner(memory_bytes=1000)


def test_prepared_cases_share_the_pool():
    """Many cases, little memory: only tokens, router and output are their own."""
    with CpuRunner(memory_bytes=2**22) as runner:
        cases = [runner.prepare(Case(SMALL, n)) for n in range(1, 20)]
        for one in cases:
            assert one.run().seconds > 0
            assert np.isfinite(one.output()).all()
        assert len(runner._own) == 1  # the tiny case that compiles
