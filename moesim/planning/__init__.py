"""Capacity plans: the cheapest deployment that keeps a promise of latency for some traffic."""
