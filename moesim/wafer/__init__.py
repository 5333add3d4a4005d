"""Wafers of dies: where experts lie, what they move over the mesh, and forecasts that keep them near."""
