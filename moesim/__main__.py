"""``python -m moesim``."""

from moesim.cli import main

main()
