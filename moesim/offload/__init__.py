"""Traces replayed with time: GPU, CPU, links and storage as resources of one box."""
