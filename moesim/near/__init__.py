"""Processors beside memories: which of them runs what, and what that gains."""
