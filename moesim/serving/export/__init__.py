"""A run in the formats of others: timelines, benchmarks' results, tables of requests."""

from moesim.serving.export.aiperf import write_aiperf
from moesim.serving.export.bench import write_bench
from moesim.serving.export.chrome import write_timeline
from moesim.serving.export.tables import TABLES, write_table

__all__ = ["TABLES", "write_aiperf", "write_bench", "write_table", "write_timeline"]
