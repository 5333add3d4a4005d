"""Machines as networks: which way traffic goes, what each link carries, and how long that takes."""

from moesim.fabric.all_to_all import ALGORITHMS, PEER_S, all_to_all, all_to_all_parts
from moesim.fabric.collectives import (
    POST_S,
    across_lines,
    collective_seconds_on,
    inside_lines,
    send_line,
    shares_links,
)
from moesim.fabric.grids import grid_hops, grid_links, grid_loads
from moesim.fabric.loads import busiest_seconds, contention_seconds, flow_loads, link_loads, multicast_loads
from moesim.fabric.measured import fastest, fit_of
from moesim.fabric.network import Network, device_bytes_per_s, network_of
from moesim.fabric.peers import EFA, PeerCost
from moesim.fabric.phases import Line, fastest_line
from moesim.fabric.report import PATTERNS, BusyLink, Report, algorithms, pattern, traffic_report
from moesim.fabric.routes import hops, incidence, latencies

__all__ = [
    "ALGORITHMS",
    "EFA",
    "PATTERNS",
    "PEER_S",
    "POST_S",
    "BusyLink",
    "Line",
    "Network",
    "PeerCost",
    "Report",
    "across_lines",
    "algorithms",
    "all_to_all",
    "all_to_all_parts",
    "busiest_seconds",
    "collective_seconds_on",
    "contention_seconds",
    "device_bytes_per_s",
    "fastest",
    "fastest_line",
    "fit_of",
    "flow_loads",
    "grid_hops",
    "grid_links",
    "grid_loads",
    "hops",
    "incidence",
    "inside_lines",
    "latencies",
    "link_loads",
    "multicast_loads",
    "network_of",
    "pattern",
    "send_line",
    "shares_links",
    "traffic_report",
]
