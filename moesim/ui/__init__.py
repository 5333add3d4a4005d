"""The what-if page: a local server, an answer for every slider."""
