"""Supernodes: prefill, decode and cache pools of processors on one fabric."""
