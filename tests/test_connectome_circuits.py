"""Measured wiring in circuits of the equation language: the same cells, synapses and spikes on every engine."""

import numpy as np
import pytest

from sbi_circuits import Circuit, Parameter, Population, Prior, Projection
from sbi_circuits.circuit import Record
from sbi_circuits.connectome.celegans import celegans
from sbi_circuits.connectome.circuits import edge_list, gap_list, type_projections
from sbi_circuits.connectome.wiring import Wiring
from sbi_circuits.engines import Protocol, get_engine
from sbi_circuits.engines.setup import prepare
from sbi_circuits.errors import CircuitError, UnknownNameError
from tests.scenarios.engines import COMPILED, EXACT, REFERENCE

CELLS = "dv/dt = (drive*(1 + 0.02*i) - v)/tau : volt (unless refractory)"
ALL_SPIKES = Record(spikes=-1, counts=False)


def wiring(delay=None):
    random = np.random.default_rng(0)
    pairs = random.permutation(30 * 30)[:120]
    return Wiring(
        ("A", "B", "C"), random.integers(0, 3, 30), source=pairs // 30, target=pairs % 30,
        count=random.integers(1, 6, 120), sign=random.choice([1, -1], 120), delay=delay,
    )  # fmt: skip


def circuit(found, projections, sizes):
    cells = tuple(
        Population(name, str(size), CELLS, "v > 15*mV", "v = 0*mV", refractory="2*ms") for name, size in sizes.items()
    )
    return Circuit(
        "wired", Prior((Parameter("w", "mV", 0.01, 2.0),)), cells, projections,
        constants={"tau": "20*ms", "drive": "18*mV"}, defaults={"w": 0.5},
    )  # fmt: skip


def matrix(built, populations):
    """Dense weights, target by source, of all synapses of a circuit at its defaults, cells numbered by population."""
    synapses = prepare(built, built.default_theta(), Protocol(0.1), 0, 0).synapses
    starts = dict(zip(populations, np.cumsum([0, *populations.values()]), strict=False))
    found = np.zeros((sum(populations.values()),) * 2)
    for s in synapses:
        np.add.at(found, (starts[s.target] + s.targets.astype(int), starts[s.source] + s.sources), s.weight)
    return found


def test_projections_by_type_are_the_wiring():
    found = wiring()
    sizes = {name: len(found.cells(name)) for name in found.cell_types}
    built = circuit(found, type_projections(found, "w*sign*count", "v_post += weight", "1*ms"), sizes)
    order = np.concatenate([found.cells(name) for name in found.cell_types])
    assert matrix(built, sizes) == pytest.approx(0.5e-3 * found.matrix()[np.ix_(order, order)])
    # Negative control: without the sign it is another network.
    unsigned = circuit(found, type_projections(found, "w*count", "v_post += weight", "1*ms"), sizes)
    assert not np.allclose(matrix(unsigned, sizes), matrix(built, sizes))


def test_groups_share_a_parameter():
    found = wiring()
    rule = edge_list(found, groups=["A->B", "C->C"])
    weight = "w*(1 + 2*in_group_0 - in_group_1)*sign*count"
    built = circuit(found, (Projection("all", "cell", "cell", rule, weight, "v_post += weight"),), {"cell": 30})
    strength = np.array([{"A->B": 3.0, "C->C": 0.0}.get(name, 1.0) for name in found.groups])
    assert matrix(built, {"cell": 30}) == pytest.approx(0.5e-3 * found.matrix(strength))


@pytest.mark.parametrize("name", COMPILED)
def test_every_engine_gives_the_spikes_of_brian2(name):
    found = wiring(np.random.default_rng(1).integers(5, 40, 120) * 1e-4)
    rule = edge_list(found)
    built = circuit(found, (Projection("all", "cell", "cell", rule, "w*sign*count", "v_post += weight", "latency"),),
                    {"cell": 30})  # fmt: skip
    protocol = Protocol(0.3, record=ALL_SPIKES)
    expected, spikes = (EXACT[n]().run(built, built.default_theta(), protocol, 0, 0).recording
                        for n in (REFERENCE, name))  # fmt: skip
    assert len(expected.times) > 100
    assert np.array_equal(spikes.offsets, expected.offsets) and np.allclose(spikes.times, expected.times, atol=1e-9)


def test_the_worm_spikes_with_its_own_gap_junctions():
    """The whole neuronal connectome as leaky integrate-and-fire cells, synapses and gap junctions."""
    found = celegans().subset(["neuron"])
    gaps = Projection("gaps", "cell", "cell", gap_list(found), "g*count", summed="gap_post = weight*(v_pre - v_post)")
    chemical = Projection("chemical", "cell", "cell", edge_list(found), "w*sign*count", "v_post += weight")
    equations = "dv/dt = (drive*(1 + 0.001*i) - v + gap)/tau : volt (unless refractory)\ngap : volt"
    cells = Population("cell", str(found.n_nodes), equations, "v > 15*mV", "v = 0*mV", refractory="2*ms")
    rates = []
    for coupling in ("0.05", "0"):
        built = Circuit(
            "worm", Prior((Parameter("w", "mV", 0.001, 2.0),)), (cells,), (gaps, chemical),
            constants={"tau": "20*ms", "drive": "15.1*mV", "g": coupling}, defaults={"w": 0.05},
        )  # fmt: skip
        recording = get_engine("kernel[numba]").run(built, built.default_theta(), Protocol(0.5, record=ALL_SPIKES), 0, 0
                                                    ).recording  # fmt: skip
        rates.append(np.diff(recording.offsets) / 0.5)
    assert rates[0].sum() > 0 and not np.array_equal(*rates)
    into = 0.05 * found.gap_matrix()
    assert into == pytest.approx(into.T)


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(UnknownNameError, match="valid: A, B, C"):
        edge_list(wiring(), "D")
    with pytest.raises(UnknownNameError, match="valid: A->A"):
        edge_list(wiring(), groups=["A->D"])
    with pytest.raises(CircuitError, match="no gap junctions"):
        gap_list(wiring())
