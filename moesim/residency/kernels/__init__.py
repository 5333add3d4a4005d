"""Compiled loops of cache replay: one rule each, one pool at a time.

A kernel is a function ``kernel(accesses: PoolAccesses, out) -> None`` that writes, for every access of one
pool, what became of it: bits `HIT`, `FIRST` and `FULL`. Pools never see each other, so a kernel keeps its
state in a few small arrays, and everything that is counted is counted from `out`.
"""
