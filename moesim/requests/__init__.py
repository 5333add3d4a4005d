"""Requests: when they arrive, how many tokens they bring and ask for; read, written, made up."""

from moesim.requests.arrivals import Arrivals, ClosedLoop, Diurnal, Gamma, parse_arrivals
from moesim.requests.load import load_requests, write_requests
from moesim.requests.sessions import resample_sessions, sessions_of, shifted
from moesim.requests.summary import RequestSummary, summarise_requests
from moesim.requests.synthetic import (
    Empirical,
    Fixed,
    Lengths,
    Lognormal,
    generate_requests,
    parse_lengths,
    resample,
    with_arrivals,
)
from moesim.requests.types import RequestTrace, request_trace, take

__all__ = [
    "Arrivals",
    "ClosedLoop",
    "Diurnal",
    "Empirical",
    "Fixed",
    "Gamma",
    "Lengths",
    "Lognormal",
    "RequestSummary",
    "RequestTrace",
    "generate_requests",
    "load_requests",
    "parse_arrivals",
    "parse_lengths",
    "request_trace",
    "resample",
    "resample_sessions",
    "sessions_of",
    "shifted",
    "summarise_requests",
    "take",
    "with_arrivals",
    "write_requests",
]
