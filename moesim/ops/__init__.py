"""Work of one step, as a table of ops."""
