import logging

import numba

from moesim import compiled


def test_a_compilation_is_logged_once(monkeypatch, caplog):
    listener = next(one for one in compiled.event._registered["numba:compile"] if hasattr(one, "said"))
    monkeypatch.setattr(listener, "said", False, raising=False)
    with caplog.at_level(logging.INFO, logger="moesim"):
        assert numba.njit(lambda x: x + 1)(1) == 2
        assert numba.njit(lambda x: x + 2)(1) == 3
    assert [record.message.split(":")[0] for record in caplog.records] == ["compiling loops"]
