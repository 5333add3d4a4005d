"""Routing traces and load counts."""
