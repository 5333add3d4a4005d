"""The critical path against another solver, and small cases by hand."""

from __future__ import annotations

import networkx as nx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.throughput.gen_dag import Dag


def _longest(dag: Dag, policy: int) -> float:
    """Longest path by networkx, node costs on the edges into each node from a common root."""
    graph = nx.DiGraph()
    costs = dag.costs[:, policy]
    for node in range(dag.count):
        graph.add_edge("root", node, weight=costs[node])
    for source, node in dag.edges_of(policy):
        graph.add_edge(source, node, weight=costs[node])
    return float(nx.dag_longest_path_length(graph))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_makespan_is_networkx_longest_path(data):
    policies = data.draw(st.integers(1, 3))
    dag = Dag(policies, capacity=2)
    for node in range(data.draw(st.integers(1, 14))):
        cost = np.array(
            data.draw(st.lists(st.integers(0, 9), min_size=policies, max_size=policies)), dtype=float
        )
        waits = []
        if node:
            waits = data.draw(st.lists(st.integers(-1, node - 1), max_size=3))
            each = data.draw(st.lists(st.integers(-1, node - 1), min_size=policies, max_size=policies))
            waits.append(np.array(each, dtype=np.int64))
        dag.add(data.draw(st.sampled_from(["", "gpu", "link", "cpu"])), cost, waits)
    for policy in range(policies):
        assert dag.makespan()[policy] == _longest(dag, policy)
    for name, busy in dag.busy.items():
        assert (dag.makespan() >= busy).all(), name


def test_a_wait_per_policy_holds_only_its_policy():
    dag = Dag(2)
    slow = dag.add("link", np.array([5.0, 5.0]))
    work = dag.add("gpu", 1.0, [np.array([slow, -1])])
    assert dag.finish[work].tolist() == [6.0, 1.0]


def test_an_empty_graph_takes_no_time():
    assert Dag(3).makespan().tolist() == [0.0, 0.0, 0.0]
