"""Measured wiring: a table of synapses with values of their own."""

import pickle

import numpy as np
import pytest

from sbi_circuits import Circuit, EdgeList, Parameter, Population, Prior, Projection
from sbi_circuits.engines import Protocol
from sbi_circuits.engines.setup import prepare
from sbi_circuits.errors import CircuitError

SOURCE, TARGET, COUNT = [2, 0, 1, 0], [0, 2, 2, 1], [5, 1, 2, 3]
RATE = "dr/dt = (drive - r + s)/tau : 1\ns : 1"


def edges(**columns):
    return EdgeList(SOURCE, TARGET, {"count": COUNT, **columns})


def circuit(wiring=None, weight="strength*count", **projection):
    cells = Population("cell", "3", "dv/dt = (drive - v)/tau : volt", "v > 10*mV", "v = 0*mV")
    settings = {"on_spike": "v_post += weight", **projection}
    return Circuit(
        "measured", Prior((Parameter("strength", "mV", 0.1, 2.0),)), (cells,),
        (Projection("edges", "cell", "cell", edges() if wiring is None else wiring, weight, **settings),),
        constants={"tau": "20*ms", "drive": "12*mV"}, defaults={"strength": 0.5},
    )  # fmt: skip


def test_synapses_carry_the_values_of_their_rows():
    wiring = edges(latency=("ms", [1.0, 2.0, 1.0, 3.0]))
    built = circuit(wiring, delay="latency")
    (found,) = prepare(built, np.array([0.5]), Protocol(0.1), 0, 0).synapses
    order = np.lexsort((found.targets, found.sources))
    assert found.sources[order].tolist() == [0, 0, 1, 2]
    assert found.targets[order].tolist() == [1, 2, 2, 0]
    assert found.weight[order] == pytest.approx(np.array([3, 1, 2, 5]) * 0.5e-3)
    assert (found.synapse_delays[order] * built.dt).tolist() == pytest.approx([3e-3, 2e-3, 1e-3, 1e-3])


def test_equal_content_is_an_equal_circuit():
    one, same = circuit(), circuit(edges())
    assert one == same and hash(one) == hash(same) and one.digest == same.digest
    assert pickle.loads(pickle.dumps(one)).digest == one.digest
    other = circuit(EdgeList(SOURCE, TARGET, {"count": [5, 1, 2, 4]}))
    assert other != one and other.digest != one.digest
    in_seconds = circuit(EdgeList(SOURCE, TARGET, {"count": ("ms/ms", COUNT)}))
    assert in_seconds.digest != one.digest


@pytest.mark.parametrize(("make", "message"), [
    (lambda: EdgeList([0, 1], [1]), "edge list: 2 sources, 1 targets"),
    (lambda: EdgeList([0, -1], [1, 0]), "edge list: source of row 1 is negative"),
    (lambda: EdgeList([0.5], [1]), "edge list: source must be whole numbers, one for each synapse"),
    (lambda: edges(count=[1, 2]), "edge list: column count has shape (2,), there are 4 synapses"),
    (lambda: edges(count=[1, 2, np.nan, 0]), "edge list: count of row 2 is not finite"),
    (lambda: circuit(EdgeList([0, 3], [1, 2], {"count": [1, 1]})),
     "projection edges: row 1 of the edge list is outside 3 x 3 neurons"),
    (lambda: circuit(edges(strength=COUNT)),
     "projection edges: the column 'strength' of its edge list is named already"),
    (lambda: circuit(edges(latency=("ms", [1, 1, -2, 1])), delay="latency"),
     "projection edges: delay latency = -0.002 s is negative"),
])  # fmt: skip
def test_a_wrong_table_is_one_clear_line(make, message):
    with pytest.raises(CircuitError) as error:
        make()
    assert str(error.value) == message


def test_units_of_columns_are_checked():
    with pytest.raises(CircuitError, match="projection edges, weight"):
        circuit(edges(latency=("ms", [1.0] * 4)), weight="strength*latency")
    with pytest.raises(CircuitError, match="counts"):
        circuit(weight="strength*counts")


def test_a_rule_without_columns_has_none_of_these_names():
    with pytest.raises(CircuitError, match="count"):
        circuit(EdgeList(SOURCE, TARGET))
