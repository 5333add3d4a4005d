"""Files are written whole or not at all."""

from __future__ import annotations

import pytest

from moesim.errors import ConfigError
from moesim.files import atomic_write, cache_dir, check_writable


def test_nothing_is_left_of_a_failed_write(tmp_path):
    target = tmp_path / "plan.json"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(target) as stream:
        stream.write("half")
        raise RuntimeError("stop")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_written_whole(tmp_path):
    with atomic_write(tmp_path / "a", "wb") as stream:
        stream.write(b"\x00\x01")
    assert (tmp_path / "a").read_bytes() == b"\x00\x01"


def test_unwritable_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="missing"), atomic_write(tmp_path / "missing" / "x"):
        pass
    assert check_writable(tmp_path / "missing" / "x", "--out")
    assert check_writable(tmp_path, "--out")
    assert not check_writable(tmp_path / "x", "--out")


def test_the_cache_is_where_it_is_said_to_be(tmp_path, monkeypatch):
    monkeypatch.setenv("MOESIM_CACHE", str(tmp_path / "new"))
    assert cache_dir("room") == tmp_path / "new" / "room"
    assert cache_dir("room").is_dir()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOESIM_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="MOESIM_CACHE: nothing can be kept there"):
        cache_dir("room")
