"""Offline-throughput systems that stream weights: their performance models and policy searches."""
