"""The clustered network in Brian2's runtime mode, run as its authors run each simulation.

What they publish (Gao et al. 2024, bioRxiv 2024.08.21.608969, and their code) draws the wiring with NumPy, makes every
group, synapse and monitor anew, runs 1.1 s, looks at the spikes of all excitatory cells whether to go on, runs the
rest, and hands over the spikes of each cell and the smoothed rate of the population. This is that route in our words:
the same objects and the same two calls of `run`, with their numbers in the namespaces. What a user waits for is all of
it. Where the two differ ours is the lighter one: pairs that share a cluster are found without a loop over neurons, and
the statistics of intervals that theirs computes at 1.1 s, for which this needs the counts alone, are left out.
"""

from typing import Any

import brian2
import numpy as np
from brian2 import Hz, ms, mV, nS, pA, pF, second
from scipy import signal

from sbi_circuits.seeds import generator

_CELLS, _EXCITATORY, _SOURCES = 2000, 0.8, 500
_DT, _REFRACTORY, _CHECKED_AT = 2e-4, 5e-3, 1.1  # seconds
_EQUATIONS = """
dv/dt = (-g_L*(v - v_rest) + g_L*delta_T*exp((v - v_thresh)/delta_T) - w + I)/C : volt (unless refractory)
dw/dt = (a*(v - v_rest) - w)/tau_w : amp
dge/dt = -ge/tau_ge : siemens
dgi/dt = -gi/tau_gi : siemens
I = I_bias + ge*(E_ge - v) + gi*(E_gi - v) : amp
"""
_CELL = {
    "C": 200 * pF, "g_L": 10 * nS, "v_rest": -65 * mV, "v_thresh": -50 * mV, "v_cut": -40 * mV, "v_reset": -65 * mV,
    "delta_T": 2 * mV, "a": 4 * nS, "b": 20 * pA, "tau_w": 500 * ms, "I_bias": 0 * pA, "E_ge": 0 * mV,
    "E_gi": -80 * mV, "tau_ge": 5 * ms, "tau_gi": 5 * ms, "Q_ge": 1 * nS, "Q_gi": 5 * nS,
}  # fmt: skip
_CLUSTERS, _WITHIN, _BETWEEN, _STRONGER = 10, 0.12, 0.04, 1.2
_PATHWAYS = (("exc", "inh", 0.05, "ge"), ("inh", "exc", 0.1, "gi"), ("inh", "inh", 0.1, "gi"))


def build(seed: int) -> tuple[brian2.Network, list[brian2.SpikeMonitor]]:
    """The network at the check configuration, and the monitors of its excitatory and inhibitory cells."""
    brian2.seed(seed)  # Brian2's own draws know no other; the worker's process runs nothing else
    random = generator(seed, "published")
    brian2.defaultclock.dt = _DT * second
    excitatory = int(_EXCITATORY * _CELLS)
    sizes = {"exc": excitatory, "inh": _CELLS - excitatory}
    groups = {name: _cells(name, size, random) for name, size in sizes.items()}
    inputs = [_drive(groups["exc"][: int(0.9 * excitatory)], 2), _drive(groups["inh"], 1)]
    synapses = _clustered(groups["exc"], random)
    for source, target, share, variable in _PATHWAYS:
        effect = f"{variable}_post += Q_{variable}"
        synapses.append(_synapses(f"{source}_{target}", groups[source], groups[target], effect, _CELL))
        synapses[-1].connect("i != j", p=share)
    monitors = [brian2.SpikeMonitor(group[: len(group)], name=f"{name}_spikes") for name, group in groups.items()]
    return brian2.Network(list(groups.values()), inputs, synapses, monitors), monitors


def run(seed: int, duration: float) -> float:
    """Build and simulate some seconds; returns the rate of the excitatory cells, Hz."""
    network, monitors = build(seed)
    first = min(duration, _CHECKED_AT)
    network.run(first * second, namespace={})
    if duration > first and not _is_silent_or_saturated(monitors[0]):
        network.run((duration - first) * second, namespace={})
    trains, _ = zip(*(_collected(monitor, duration) for monitor in monitors), strict=True)
    return sum(map(len, trains[0].values())) / (_EXCITATORY * _CELLS) / duration


def _is_silent_or_saturated(monitor: brian2.SpikeMonitor) -> bool:
    """From the spikes of 0.1 to 1.1 s, as a share of the most that refractory cells can fire."""
    trains = {cell: times / second for cell, times in monitor.spike_trains().items()}
    spikes = [np.count_nonzero((times >= 0.1) & (times < _CHECKED_AT)) for times in trains.values()]
    return not 1e-4 < _REFRACTORY * np.mean(spikes) / (_CHECKED_AT - 0.1) < 0.99


def _collected(monitor: brian2.SpikeMonitor, duration: float) -> tuple[dict[int, Any], Any]:
    """Spike times of each cell in seconds, and the population's rate in Hz, smoothed, every millisecond."""
    trains = {cell: times / second for cell, times in monitor.spike_trains().items()}
    edges = (np.arange(round(duration / _DT) + 1) - 0.5) * _DT
    binned = np.histogram(np.concatenate(list(trains.values())), edges)[0] / _DT / len(trains)
    smooth = signal.windows.gaussian(int(7 * 0.0005 / _DT), int(0.0005 / _DT))
    return trains, signal.decimate(np.convolve(binned, smooth / smooth.sum(), "same"), 5)


def _cells(name: str, size: int, random: Any) -> brian2.NeuronGroup:
    group = brian2.NeuronGroup(
        size, _EQUATIONS, threshold="v > v_cut", reset="v = v_reset; w += b", refractory=_REFRACTORY * second,
        method="euler", namespace=dict(_CELL), name=f"{name}_cells",
    )  # fmt: skip
    group.v = _CELL["v_rest"] + random.standard_normal(size) * 4 * mV
    return group


def _drive(target: Any, rate: float) -> brian2.PoissonInput:
    return brian2.PoissonInput(target, "ge", _SOURCES, rate * Hz, weight=1 * nS)


def _synapses(name: str, source: Any, target: Any, effect: str, values: dict[str, Any]) -> brian2.Synapses:
    """As published, every synapse also holds a conductance `q` that nothing reads."""
    return brian2.Synapses(
        source, target, "q : siemens", on_pre=effect, delay=0 * ms, namespace=values, name=f"{name}_synapses"
    )


def _clustered(group: brian2.NeuronGroup, random: Any) -> list[brian2.Synapses]:
    """Pairs that share a label connect more often and more strongly; every pair is listed, as published."""
    labels = random.integers(_CLUSTERS, size=(len(group), 2))
    shared = (labels[:, None] == labels[None]).any(2)
    made = []
    for name, pairs, share, factor in (("in", shared, _WITHIN, _STRONGER), ("out", ~shared, _BETWEEN, 1.0)):
        i, j = pairs.nonzero()
        i, j = i[i != j], j[i != j]
        chosen = np.sort(random.choice(len(i), int(np.ceil(share * len(i))), replace=False))
        values = {f"Q_{name}": factor * _CELL["Q_ge"]}
        made.append(_synapses(f"exc_exc_{name}", group, group, f"ge_post += Q_{name}", values))
        made[-1].connect(i=i[chosen], j=j[chosen])
    return made
