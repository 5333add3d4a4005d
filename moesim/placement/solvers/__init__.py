"""Ways to a plan: array functions from loads to ``physical_to_logical [layers, slots]``."""
