"""Experts and tokens moved to the same device (Speculative MoE / Sem-MoE, arXiv:2503.04398).

Where attention is cut over devices, each layer's reduce-scatter may hand a token to any of them for free.
If the token's experts of the next layer are likely to be on that device, less has to be exchanged. Two
tables are learnt from one part of the traffic and used on another: which device holds which expert, layer
by layer, and which device a token should go to, given where most of its experts were in the two layers
before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

Ids = npt.NDArray[np.integer]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Colocation:
    """What was learnt.

    Parameters
    ----------
    device_of
        Device of each expert, ``[layers, experts]``; each device has as many of every layer.
    next_device
        Where to send a token for a layer, ``[layers, devices, devices]``: by the device of most of its
        experts one and two layers before. The first layer has no history, and one entry for all.
    devices
        Their number.
    """

    device_of: Ints
    next_device: Ints
    devices: int

    def send(self, ids: Ids) -> Ints:
        """The device each token goes to for each layer, by earlier layers alone, ``[tokens, layers]``.

        Parameters
        ----------
        ids
            Experts of each token, ``[tokens, layers, top_k]``.
        """
        home = majority(self.device_of, ids, self.devices)
        found = np.empty(home.shape, np.int64)
        none = np.zeros(len(ids), np.int64)
        for layer in range(home.shape[1]):
            last = home[:, layer - 1] if layer else none
            before = home[:, layer - 2] if layer > 1 else none
            found[:, layer] = self.next_device[layer, last, before]
        return found


def counts(device_of: Ints, ids: Ids, layer: int, devices: int) -> Ints:
    """How many of each token's experts of a layer each device holds, ``[tokens, devices]``."""
    held = device_of[layer][ids[:, layer]]
    return np.asarray((held[:, :, None] == np.arange(devices)).sum(axis=1))


def majority(device_of: Ints, ids: Ids, devices: int) -> Ints:
    """The device that holds most of a token's experts of each layer, ``[tokens, layers]``."""
    layers = [counts(device_of, ids, layer, devices).argmax(axis=1) for layer in range(ids.shape[1])]
    return np.stack(layers, axis=1)


def local_rate(device_of: Ints, ids: Ids, sent: Ints) -> float:
    """Part of all activations whose expert is on the device that the token was sent to.

    >>> device_of = np.array([[0, 0, 1, 1]])
    >>> local_rate(device_of, np.array([[[0, 1]], [[1, 2]]]), np.array([[0], [0]]))
    0.75
    """
    layers = np.arange(ids.shape[1])[None, :, None]
    return float((device_of[layers, ids] == sent[:, :, None]).mean())


def learn(ids: Ids, num_experts: int, devices: int, rounds: int = 3) -> Colocation:
    """Place experts where the tokens that choose them come from, then learn where such tokens go next.

    Parameters
    ----------
    ids
        Experts of each token, ``[tokens, layers, top_k]``.
    num_experts
        Per layer, a multiple of `devices`.
    devices
        Devices.
    rounds
        Passes over the layers.

    Notes
    -----
    Of each layer the placement is the best for its predecessor's: an assignment of experts to slots
    (Hungarian method) that keeps most activations where most of the token's experts were one layer before.
    """
    layers, slots = ids.shape[1], num_experts // devices
    if slots * devices != num_experts:
        raise ValueError(f"{num_experts} experts do not divide over {devices} devices")
    device_of = np.tile(np.arange(num_experts) // slots, (layers, 1))
    for _ in range(rounds):
        for layer in range(layers):
            # The first layer follows the second, as the last round left it.
            beside = layer - 1 if layer else min(1, layers - 1)
            label = counts(device_of, ids, beside, devices).argmax(axis=1)
            gain = np.zeros((num_experts, devices))
            np.add.at(gain, (ids[:, layer], label[:, None]), 1.0)
            _, chosen = linear_sum_assignment(np.repeat(gain, slots, axis=1), maximize=True)
            device_of[layer] = chosen // slots
    home = majority(device_of, ids, devices)
    none = np.zeros(len(ids), np.int64)
    table = np.zeros((layers, devices, devices), np.int64)
    for layer in range(layers):
        last = home[:, layer - 1] if layer else none
        before = home[:, layer - 2] if layer > 1 else none
        here = counts(device_of, ids, layer, devices)
        found = np.zeros((devices, devices, devices))
        np.add.at(found, (last, before), here)
        # A pair of devices that was never seen goes by the last one alone.
        alone = found.sum(axis=1, keepdims=True)
        table[layer] = np.where(found.sum(axis=-1, keepdims=True) > 0, found, alone).argmax(axis=-1)
    return Colocation(device_of, table, devices)
