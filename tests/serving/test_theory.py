"""The simulator against the theory of queues: what steps of one length and simple requests must give."""

from __future__ import annotations

import math

import numpy as np
import pytest

from moesim.prediction import Engine
from moesim.requests import RequestTrace, generate_requests, request_trace
from moesim.serving.outcome import Outcome
from moesim.serving.pricing import constant_prices
from moesim.serving.settings import Fleet, Scheduler
from moesim.serving.simulate import follow, rules_of

ROOMY = 1 << 40


def serve(
    requests: RequestTrace, step_s: float, most: int, replicas: int = 1, router: str = "least-requests"
) -> Outcome:
    """Serve requests on engines that run `most` at once, with steps of one length and room for all."""
    fleet = Fleet(replicas, router)
    rules = rules_of(Scheduler(), fleet, 1, 1 << 20, most, requests, Engine(), 0)
    return follow(requests, rules, constant_prices(step_s), replicas, ROOMY)


def poisson(rate_per_s: float, outputs: np.ndarray, seed: int) -> RequestTrace:
    """Requests of one prompt token that ask for `outputs` tokens."""
    times = np.cumsum(np.random.default_rng(seed).exponential(1.0 / rate_per_s, len(outputs)))
    return request_trace(times, np.ones(len(outputs), np.int32), outputs.astype(np.int32))


def waits(outcome: Outcome, skipped: int) -> np.ndarray:
    progress = outcome.state.progress
    return (progress.scheduled_s - progress.sent_s)[skipped:]


def batch_error(sample: np.ndarray, batches: int = 40) -> float:
    """Standard error of a mean of dependent values, by means of batches."""
    means = sample[: len(sample) // batches * batches].reshape(batches, -1).mean(axis=1)
    return float(means.std(ddof=1) / math.sqrt(batches))


def erlang_c(servers: int, load: float) -> float:
    """Probability of waiting in M/M/c with `load` servers busy on average."""
    terms = [load**k / math.factorial(k) for k in range(servers)]
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(terms) + last)


@pytest.mark.parametrize("busy", [0.3, 0.7, 0.9])
def test_one_request_at_a_time_in_one_step_is_m_d_1(busy):
    """Pollaczek and Khinchine: the mean wait is ``rho D / (2 (1 - rho))``."""
    step_s = 0.02
    requests = poisson(busy / step_s, np.ones(200_000), seed=3)
    found = waits(serve(requests, step_s, most=1), 20_000)
    expected = busy * step_s / (2.0 * (1.0 - busy))
    error = batch_error(found)
    assert error < 0.05 * expected
    assert abs(found.mean() - expected) < 3.5 * error


@pytest.mark.parametrize(("servers", "busy"), [(1, 0.6), (4, 0.8), (16, 0.8)])
def test_many_at_once_with_geometric_outputs_is_m_m_c(servers, busy):
    """Erlang: the mean wait is ``C(c, a) / (c mu - lambda)``, in the limit of short steps."""
    mean_steps, step_s = 40, 1e-3
    service_s = mean_steps * step_s
    rate = busy * servers / service_s
    outputs = np.random.default_rng(5).geometric(1.0 / mean_steps, 100_000)
    found = waits(serve(poisson(rate, outputs, seed=7), step_s, most=servers), 10_000)
    chance = erlang_c(servers, busy * servers)
    expected = chance * service_s / (servers * (1.0 - busy))
    # A request that finds a place waits for the step that runs, if one does; on average for half of it.
    error = batch_error(found)
    assert error < 0.08 * expected
    assert abs(found.mean() - expected) < 3.5 * error + step_s


def test_sojourn_times_of_m_m_1_are_exponential():
    """P(T > t) = exp(-(mu - lambda) t)."""
    mean_steps, step_s, busy = 50, 1e-3, 0.7
    outputs = np.random.default_rng(11).geometric(1.0 / mean_steps, 100_000)
    rate = busy / (mean_steps * step_s)
    outcome = serve(poisson(rate, outputs, seed=13), step_s, most=1)
    found = outcome.e2el_s[10_000:]
    mean = mean_steps * step_s / (1.0 - busy)
    for share in (0.5, 0.9, 0.99):
        assert np.quantile(found, share) == pytest.approx(-mean * math.log(1.0 - share), rel=0.05)


def test_more_servers_with_one_queue_beat_servers_with_queues_of_their_own():
    """Joining the shortest queue lies between M/M/c and c queues that are taken in turn."""
    mean_steps, step_s, servers, busy = 40, 1e-3, 4, 0.8
    outputs = np.random.default_rng(17).geometric(1.0 / mean_steps, 50_000)
    requests = poisson(busy * servers / (mean_steps * step_s), outputs, seed=19)
    together = waits(serve(requests, step_s, most=servers), 5_000).mean()
    shortest = waits(serve(requests, step_s, 1, servers, "least-requests"), 5_000).mean()
    turns = waits(serve(requests, step_s, 1, servers, "round-robin"), 5_000).mean()
    assert together < shortest < turns


@pytest.mark.parametrize("clients", [1, 7, 64])
def test_a_closed_loop_obeys_littles_law(clients):
    """Clients = throughput x end-to-end latency; all are in flight once started and until the last begin."""
    requests = generate_requests(4_000, f"closed:{clients}", 10, 50, seed=1)
    outcome = serve(requests, 0.01, most=32)
    progress = outcome.state.progress
    begin, end = np.sort(progress.sent_s)[2 * clients + 1], np.sort(progress.last_s)[-2 * clients - 1]
    inside = np.clip(np.minimum(progress.last_s, end) - np.maximum(progress.sent_s, begin), 0.0, None)
    assert inside.sum() / (end - begin) == pytest.approx(clients, rel=1e-9)
    through = (progress.last_s > begin) & (progress.last_s <= end)
    throughput = through.sum() / (end - begin)
    assert throughput * outcome.e2el_s[through].mean() == pytest.approx(clients, rel=0.05)


def test_steps_of_a_lone_request_are_counted_exactly():
    """One step reads the prompt and gives a token, each later token takes a step."""
    outcome = serve(request_trace([0.0], [1000], [10]), 0.5, most=4)
    assert outcome.ttft_s.tolist() == [0.5]
    assert outcome.tpot_s.tolist() == [0.5]
    assert outcome.e2el_s.tolist() == [5.0]


def test_chunks_of_a_prompt_take_a_step_each():
    requests = request_trace([0.0], [1000], [1])
    rules = rules_of(Scheduler(), Fleet(), 1, 256, 4, requests, Engine(), 0)
    assert follow(requests, rules, constant_prices(0.5), 1, ROOMY).ttft_s.tolist() == [2.0]


@pytest.mark.parametrize("seed", range(3))
def test_tokens_are_conserved(seed):
    """Every prompt is read once, and every token but the last of each request is fed back."""
    rng = np.random.default_rng(seed)
    times = generate_requests(300, "gamma:50:3", 1, 1, seed=seed).arrival_s
    requests = request_trace(times, rng.integers(1, 3000, 300), rng.integers(1, 200, 300))
    outcome = serve(requests, 0.01, most=16, replicas=3)
    sums = outcome.state.tally.sums.sum(axis=0)
    assert outcome.done.all()
    assert sums[2] == requests.input_tokens.sum()
    assert sums[3] == (requests.output_tokens - 1).sum()
