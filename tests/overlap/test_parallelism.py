"""Tutel's switch between parallelisms."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.fabric import all_to_all, collective_seconds_on
from moesim.hardware import load_hardware
from moesim.overlap import Switch

HARDWARE = load_hardware("a100-sxm-80gb-8", nodes=2)


def switch(token_bytes, expert_bytes, experts=2):
    return Switch(
        token_bytes,
        expert_bytes,
        experts,
        16,
        exchange=lambda b: float(all_to_all(HARDWARE, 16, b)),
        gather=lambda b, n: float(collective_seconds_on(HARDWARE, "all_gather", n, n, b)),
    )


@given(st.floats(1e3, 1e9), st.floats(1e3, 1e9), st.sampled_from([1, 2, 4, 16]))
def test_switching_is_never_worse_than_staying(token_bytes, expert_bytes, experts):
    layer = switch(token_bytes, expert_bytes, experts)
    assert layer.seconds(layer.best()) == min(layer.seconds(r) for r in layer.choices)


def test_many_tokens_move_parameters_and_few_tokens_move():
    sizes = [1e4, 1e6, 3e7, 1e9]
    chosen = [switch(tokens, 5e7).best() for tokens in sizes]
    assert chosen == sorted(chosen, reverse=True)
    assert chosen[0] == 8
    assert chosen[-1] == 0


def test_one_expert_per_device_leaves_exchange_or_gathering_everything():
    assert switch(1e6, 1e6, 16).choices == (0, 1)
    assert switch(1e6, 1e6, 2).choices == (0, 1, 2, 4, 8)
    with pytest.raises(ValueError, match="do not divide"):
        replace(switch(1e6, 1e6), experts=3)


def test_every_choice_gives_each_device_the_same_work():
    # With free links nothing is left to choose by.
    free = Switch(1.0, 1.0, 2, 8, exchange=lambda b: 0.0 * b, gather=lambda b, n: 0.0 * b * n)
    assert {free.seconds(r) for r in free.choices} == {0.0}
    assert free.best() == 0
