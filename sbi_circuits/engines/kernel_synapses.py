"""Delivery of spikes whose effect differs between synapses or spikes, and refractory periods of each neuron (numba).

Arguments that are None are absent; numba compiles the function without them.
"""

import numpy as np
from numba import njit


@njit(cache=True)
def deliver_each(indptr, targets, amount, weights, gains, ring, past, count, variable, until, step):  # type: ignore[no-untyped-def]
    """Add to the variable of every target of every spike, refractory targets left out where `until` is given.

    Args:
        indptr, targets: rows of sources.
        amount: what a synapse adds, where `gains` is None.
        weights: a factor of each synapse, or None.
        gains: what each spike of the ring adds, or None.
        ring, past, count: the first `count` entries of `ring[past]` are the sources that spiked.
        variable: of the targets.
        until: time step up to which each target is refractory, or None.
        step: the time step.
    """
    for s in range(count):
        i = ring[past, s]
        if gains is not None:
            amount = gains[past, s]
        for k in range(indptr[i], indptr[i + 1]):
            j = targets[k]
            if until is not None:
                if until[j] > step:
                    continue
            if weights is None:
                variable[j] += amount
            else:
                variable[j] += amount * weights[k]


@njit(cache=True)
def hold_each(ring, now, count, until, step, refractory):  # type: ignore[no-untyped-def]
    """Keep neurons refractory for a number of steps of their own."""
    for s in range(count):
        i = ring[now, s]
        until[i] = np.int32(step + max(refractory[i], 1))
