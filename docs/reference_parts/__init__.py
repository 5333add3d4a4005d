"""Parts of `docs/generate_reference.py`: the program, Python's names, schemas and columns, as Markdown."""
