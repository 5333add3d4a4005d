"""Messages as packets, one by one, over links that each carry one at a time: an oracle of its own.

It knows a machine only as networkx shows it. It is given the ways from node to node, as lists of nodes, which
packets of a message take in turn. Links are first come, first served; a packet is forwarded once all of it
has arrived. A sender takes its messages in turn, packet by packet.
"""

from __future__ import annotations

import itertools
from collections import defaultdict

import networkx as nx
import simpy


def shortest_ways(made, source, target):
    """All ways with the fewest hops."""
    return list(nx.all_shortest_paths(made, source, target))


def seconds(made, messages, ways, packets=32, efficiency=1.0):
    """When the last packet arrives.

    `messages` are (source, target, bytes); `ways` gives the lists of nodes for a source and a target.
    """
    world = simpy.Environment()
    links = {}
    for a, b, edge in made.edges(data=True):
        for ends in ((a, b), (b, a)):
            links[ends] = (
                simpy.Resource(world),
                edge["bandwidth_bytes_per_s"] * efficiency,
                edge["latency_s"],
            )
    last = [0.0]

    def packet(path, size):
        for ends in itertools.pairwise(path):
            resource, rate, latency = links[ends]
            with resource.request() as turn:
                yield turn
                yield world.timeout(size / rate)
            yield world.timeout(latency)
        last[0] = max(last[0], world.now)

    queues = defaultdict(list)
    for source, target, size in messages:
        found = ways(source, target)
        each = packets * len(found)
        queues[source].append([(found[i % len(found)], size / each) for i in range(each)])
    for own in queues.values():
        for round_ in itertools.zip_longest(*own):
            for path, size in filter(None, round_):
                world.process(packet(path, size))
    world.run()
    return last[0]
