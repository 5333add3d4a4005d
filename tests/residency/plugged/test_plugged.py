"""The replay of rules in Python: by hand on small cases, and every condition."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.errors import ConfigError
from moesim.policy import Residency, token_steps
from moesim.residency.plugged import replay_keyed
from moesim.trace import RoutingTrace


class Recent:
    """LRU as a rule of one's own."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.when, self.clock, self.calls = {}, 0, []

    def touched(self, layer, expert, step, hit, weight):
        self.clock += 1
        self.when[layer, expert] = self.clock
        self.calls.append((layer, expert, step, hit, weight))

    def loaded(self, layer, expert, step):
        self.calls.append((layer, expert, step))

    def key(self, layer, expert):
        return self.when[layer, expert]


def steps_of(ids, request=None, weights=None):
    ids = np.asarray(ids, np.uint8)
    count = np.arange(len(ids), dtype=np.int32)
    request = count * 0 if request is None else np.asarray(request, np.int32)
    phase = np.ones(len(ids), np.int8)
    return token_steps(RoutingTrace(ids, request, 8, tuple(range(ids.shape[1])), count, phase, weights))


def hits(ids, slots, request=None, **conditions):
    found = replay_keyed(steps_of(ids, request), Recent(), np.array(slots), Residency(**conditions))
    return found.hits.tolist()


def test_one_layer_by_hand():
    # 0 1 0 2 1 with two slots: 0 hits; 2 evicts 1; 1 evicts 0.
    ids = [[[0]], [[1]], [[0]], [[2]], [[1]]]
    assert hits(ids, [2]) == [1]
    assert hits(ids, [3]) == [2]
    assert hits(ids, [0]) == [0]


def test_cold_misses_are_free_when_asked():
    ids = [[[0]], [[1]], [[0]], [[2]], [[1]]]
    assert hits(ids, [2], cold="free") == [4]


def test_reset_forgets_between_requests():
    ids = [[[0]], [[0]], [[0]], [[0]]]
    assert hits(ids, [2], request=[0, 0, 1, 1]) == [3]
    assert hits(ids, [2], request=[0, 0, 1, 1], reset="request") == [2]
    assert hits(ids, [2], request=[0, 0, 1, 1], reset="request", cold="free") == [4]


def test_lookup_of_a_token_at_once():
    # Two slots hold 0 and 1; the next token asks 2, then 0: one after the other, 2 evicts 0 first.
    ids = [[[0, 1]], [[2, 0]]]
    assert hits(ids, [2]) == [0]
    assert hits(ids, [2], lookup="token_batch") == [1]


def test_a_cell_larger_than_its_pool_passes_through():
    ids = [[[0, 1]], [[0, 1]]]
    assert hits(ids, [1], lookup="token_batch") == [1]


def test_one_pool_for_all_layers():
    # Layers 0 and 1 in turn, one expert each: two slots hold both, one slot neither.
    ids = [[[3], [5]]] * 3
    assert hits(ids, [2], pool="global") == [2, 2]
    assert hits(ids, [1], pool="global") == [0, 0]
    assert hits(ids, [1, 1]) == [2, 2]


def test_the_rule_is_told_in_order():
    rule = Recent()
    weights = np.array([[[0.75]], [[0.25]]], np.float16)
    replay_keyed(steps_of([[[4]], [[4]]], weights=weights), rule, np.array([1]))
    assert rule.calls == [(0, 4, 0, False, 0.75), (0, 4, 0), (0, 4, 1, True, 0.25)]


def test_bad_conditions_are_refused_together():
    with pytest.raises(ConfigError) as caught:
        replay_keyed(steps_of([[[0]]]), Recent(), np.array([1, 1]), Residency(start="popular"))
    assert len(caught.value.faults) == 2
