"""Schedules of a MoE layer: what runs beside what, in how many chunks."""
