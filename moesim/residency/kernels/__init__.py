"""Compiled loops of cache replay, one rule each."""
