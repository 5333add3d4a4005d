"""Traffic from options: a file, at its own rate or another, or requests made up."""

from __future__ import annotations

import math
import os
from dataclasses import replace

from moesim.errors import ConfigError, Fault, TraceError
from moesim.planning.types import Traffic
from moesim.requests import (
    Gamma,
    RequestTrace,
    generate_requests,
    load_requests,
    parse_lengths,
    with_arrivals,
)

#: Requests that are made up if nobody says: a minute of them, but enough for a 99th percentile.
SECONDS, LEAST, MOST = 60.0, 2_000, 20_000
_MOST_RATE = 1e9
_MOST_REQUESTS = 100_000_000


def make_traffic(
    path: str | os.PathLike[str] | None = None,
    request_rate: float | None = None,
    input_len: str | None = None,
    output_len: str | None = None,
    *,
    requests: int | None = None,
    burstiness: float | None = None,
    seed: int = 0,
) -> Traffic:
    """Traffic to plan for.

    Parameters
    ----------
    path
        Requests in any known format. With a rate their times are stretched to it, so that bursts stay.
    request_rate
        Per second; a file's own, if not given.
    input_len, output_len
        Tokens where there is no file: a number, or ``lognormal:MEAN:CV``.
    requests
        How many are made up, or taken from the file's beginning.
    burstiness
        Of made-up arrivals, as in `vllm bench serve`: 1 is Poisson, less comes in bursts.
    seed
        Of what is made up.

    Raises
    ------
    ConfigError
        With every fault of the options, and of the file.

    Examples
    --------
    >>> traffic = make_traffic(request_rate=50.0, input_len="1000", output_len="lognormal:200:1")
    >>> len(traffic.requests), traffic.request_rate
    (3000, 50.0)
    """
    faults = _number_faults(request_rate, requests, burstiness)
    if path is not None:
        faults += [
            Fault("is of made-up requests: leave it out beside --requests", option, value)
            for option, value in (
                ("--input-len", input_len),
                ("--output-len", output_len),
                ("--burstiness", burstiness),
            )
            if value is not None
        ]
        try:
            found = load_requests(path, ordered=True)
        except (ConfigError, TraceError) as error:
            source = f"{error.source}: " if error.source else ""
            raise ConfigError([*faults, *(Fault(f"{source}{fault}") for fault in error.faults)]) from None
        if faults:
            raise ConfigError(faults)
        return _of_file(found.head(requests or len(found)), request_rate, seed)
    faults += [
        Fault("is needed where there is no --requests file", option)
        for option, value in (
            ("--request-rate", request_rate),
            ("--input-len", input_len),
            ("--output-len", output_len),
        )
        if value is None
    ]
    lengths = []
    for text, option in ((input_len, "--input-len"), (output_len, "--output-len")):
        try:
            lengths.append(parse_lengths(text, option) if text is not None else None)
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    assert request_rate is not None
    many = requests or round(min(max(SECONDS * request_rate, LEAST), MOST))
    arrivals = Gamma(request_rate, 1.0 / math.sqrt(burstiness or 1.0))
    first, second = lengths
    assert first is not None
    assert second is not None
    return Traffic(generate_requests(many, arrivals, first, second, seed=seed), request_rate)


def _of_file(found: RequestTrace, rate: float | None, seed: int) -> Traffic:
    span = float(found.arrival_s[-1] - found.arrival_s[0])
    own = (len(found) - 1) / span if span > 0 else None
    if own is None and rate is None:
        message = "all requests of the file arrive at once: say how many come per second"
        raise ConfigError(Fault(message, "--request-rate"))
    if own is None:
        assert rate is not None
        return Traffic(with_arrivals(found, Gamma(rate), seed=seed), rate)
    if rate is None:
        return Traffic(replace(found, concurrency=None), own)
    times = (found.arrival_s - found.arrival_s[0]) * (own / rate)
    return Traffic(replace(found, arrival_s=times, concurrency=None), rate)


def _number_faults(rate: float | None, requests: int | None, burstiness: float | None) -> list[Fault]:
    found = []
    if rate is not None and not 0 < rate < _MOST_RATE:
        found.append(Fault("must be above 0, and finite", "--request-rate", rate, "requests per second"))
    if requests is not None and not 1 <= requests <= _MOST_REQUESTS:
        found.append(Fault("is no number of requests", "--num-requests", requests, "1 to 1e8"))
    if burstiness is not None and not 1e-4 <= burstiness <= 1e4:
        found.append(Fault("is out of range", "--burstiness", burstiness, "0.0001 to 10000"))
    return found
