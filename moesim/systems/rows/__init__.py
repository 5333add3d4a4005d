"""One module per system or family; each lists its rows as ``ROWS`` and is found by itself."""
