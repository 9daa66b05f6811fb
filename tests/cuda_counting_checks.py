"""Checks of deliveries that count spikes in kernel[cuda], run by test_cuda.py: the sums are those of the CPU kernel."""

import dataclasses

import numpy as np
import pytest

from sbi_circuits.circuit import (
    AllToAll,
    Circuit,
    CurrentSteps,
    Explicit,
    Independent,
    Population,
    Projection,
    Record,
    get_circuit,
)
from sbi_circuits.engines import Protocol, cuda_prepare, kernel_cuda
from sbi_circuits.engines.kernel_cuda import CudaEngine
from sbi_circuits.engines.kernel_numba import NumbaEngine
from sbi_circuits.engines.rate_numba import CompiledEngine
from sbi_circuits.errors import CircuitError
from sbi_circuits.prior import Parameter, Prior
from tests.cuda_checks import CIRCUITS, equal, run
from tests.cuda_simulator import PATCHED
from tests.scenarios.circuits import noisy
from tests.scenarios.lfp import LFP_CIRCUITS, largest_difference, recorded

pytestmark = pytest.mark.filterwarnings("ignore:.*Host array used in CUDA kernel", "ignore:.*Grid size")
assert PATCHED or not kernel_cuda.SIMULATED
COUNTED = [name for name, circuit in CIRCUITS.items() if kernel_cuda.columns_of(circuit, False, True).counted]
LEAK = "dv/dt = -v/tau : volt (unless refractory)\ndx/dt = -x/tau : 1\ndy/dt = -y/tau : 1"


def counting(single: bool = False) -> CudaEngine:
    return CudaEngine("single" if single else "double", counting=True)


def test_circuits_of_every_kind_are_counted() -> None:
    assert {"noisy", "adex_quartet", "summed_between"} <= set(COUNTED)


@pytest.mark.parametrize("name", COUNTED)
def test_counted_spikes_add_up_as_on_the_cpu(name: str) -> None:
    """In double precision, where a product differs from a sum in the last bit only."""
    expected = run(NumbaEngine("double"), CIRCUITS[name]).recording
    assert expected is not None and len(expected.times) and equal(run(counting(), CIRCUITS[name]).recording, expected)


def test_a_longer_run_of_the_noisy_network() -> None:
    circuit = noisy(30)
    expected = run(NumbaEngine("double"), circuit, 0.15).recording
    assert expected is not None and len(expected.times) > 100
    assert equal(run(counting(), circuit, 0.15).recording, expected)


def _all_at_once(sources: int) -> Circuit:
    """Neurons that spike all in the same step, onto cells whose spikes tell how many they were."""
    early = Population("early", str(sources), "dv/dt = (R*I_inj - v)/tau : volt", "v > 20*mV", "v = 0*mV",
                       refractory="2*ms")  # fmt: skip
    cells = Population("cells", "5", "dx/dt = (y - x)/tau : 1\ndy/dt = -y/tau : 1", "x > 2 + 0.4*i", "x = -0.5",
                       refractory="0.5*ms")  # fmt: skip
    return Circuit(
        "all_at_once", Prior((Parameter("drive", "pA", 0, 5000),)), (early, cells),
        (Projection("all", "early", "cells", AllToAll(), "4", "y_post += weight", "0.3*ms"),),
        (CurrentSteps("early", "I_inj", "pA", ((0.0, "drive"),)),),
        constants={"R": "100*Mohm", "tau": "5*ms"}, dt=1e-4, defaults={"drive": 900.0},
    )  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize("sources", [200, 300, 530])
def test_more_spikes_than_a_byte_counts_are_added_in_turns(sources: int) -> None:
    circuit = _all_at_once(sources)
    assert kernel_cuda.columns_of(circuit, False, True).counted == (0,)
    expected = run(NumbaEngine("double"), circuit, 0.012).recording
    found = run(counting(), circuit, 0.012).recording
    assert expected is not None and (expected.counts["cells"].values > 0).any() and equal(found, expected)


def test_negative_control_bytes_that_run_over_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    circuit = dataclasses.replace(_all_at_once(300), name="run_over")
    monkeypatch.setattr("sbi_circuits.engines.cuda_tallies.MOST", 10**6)
    found = run(counting(), circuit, 0.012).recording
    assert not equal(found, run(NumbaEngine("double"), circuit, 0.012).recording)


def _many_projections() -> Circuit:
    """Six projections onto one population: two words of counts, several delays, refractory neurons left out or not."""
    circuit = noisy(24)
    exc, inh = (dataclasses.replace(p, equations=LEAK) for p in circuit.populations)
    exc = dataclasses.replace(exc, equations=LEAK + "\ndz/dt = (x - y - z)/tau : 1", threshold="v > v_th + z*mV")
    hears = ("v_post += weight", "v_post += weight\nx_post += 0.3")
    projections = tuple(
        Projection(f"p{n}", source, "exc", Independent("p"), f"{weight}*mV", hears[n % 2], delay)
        for n, (source, weight, delay) in enumerate([
            ("exc", 0.4, "1*ms"), ("inh", -0.7, "1*ms"), ("exc", 0.3, "1*ms"), ("exc", 0.2, "0.5*ms"),
            ("inh", -0.2, "0*ms"), ("exc", 0.1, "0*ms"),
        ])
    )  # fmt: skip
    to_inh = Projection("to_inh", "exc", "inh", Independent("p"), "0.4*mV", "v_post += weight\ny_post += 0.1", "1*ms")
    projections = (*projections, to_inh)
    return dataclasses.replace(circuit, name="many_projections", populations=(exc, inh), projections=projections)


def test_more_projections_than_a_word_has_bytes() -> None:
    circuit = _many_projections()
    columns = kernel_cuda.columns_of(circuit, False, True)
    assert columns.tallies(0) == 2 and columns.counted == tuple(range(7)) and len(columns.groups) == 5
    expected = run(NumbaEngine("double"), circuit, 0.03).recording
    assert expected is not None and len(expected.times) > 15
    assert equal(run(counting(), circuit, 0.03).recording, expected)


def test_what_a_reset_may_see_is_not_counted() -> None:
    """Delivered before the reset of the same step, it must be there when the reset comes."""
    circuit = _many_projections()
    cells = dataclasses.replace(circuit.populations[0], reset="v = 0*mV\nz += x")
    circuit = dataclasses.replace(circuit, name="reset_sees", populations=(cells, circuit.populations[1]))
    assert kernel_cuda.columns_of(circuit, False, True).counted == (0, 2, 4, 6)
    expected = run(NumbaEngine("double"), circuit, 0.02).recording
    assert expected is not None and len(expected.times) and equal(run(counting(), circuit, 0.02).recording, expected)


def test_explicit_synapses_are_not_counted() -> None:
    """Two of them may join the same pair."""
    circuit = noisy(12)
    twice = Projection("twice", "exc", "inh", Explicit(((0, 1), (0, 1))), "1*mV", "v_post += weight")
    circuit = dataclasses.replace(circuit, name="with_twice", projections=(*circuit.projections, twice))
    assert kernel_cuda.columns_of(circuit, False, True).counted == (0, 1, 2)


@pytest.mark.parametrize("name", LFP_CIRCUITS)
def test_readouts_see_what_was_counted(name: str) -> None:
    found = recorded(counting(), LFP_CIRCUITS[name], duration=0.05)
    expected = recorded(CompiledEngine("double"), LFP_CIRCUITS[name], duration=0.05)
    assert equal(found, expected) and largest_difference(found, expected) < 1e-12


def test_counts_that_rows_cannot_name_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    circuit, used = noisy(20), []
    load = kernel_cuda.load_kernel
    monkeypatch.setattr(kernel_cuda, "load_kernel", lambda *a: used.append(a[-1]) or load(*a))
    enough = run(counting(), circuit, 0.01).recording
    monkeypatch.setattr(kernel_cuda, "WORDS", 24)
    few = run(counting(), circuit, 0.01).recording
    assert used == [True, False] and equal(few, enough)


def test_single_precision_counts_and_batches_are_equal() -> None:
    circuit = get_circuit("adex_clustered")
    constants = {**dict(circuit.constants), "n_total": "60"}
    circuit = dataclasses.replace(circuit, constants=constants)  # type: ignore[arg-type]
    assert len(kernel_cuda.columns_of(circuit, True).counted) == 6
    thetas = np.tile(circuit.default_theta(), (3, 1))
    protocol = Protocol(0.006, record=Record(spikes=-1, counts=True, moments=True), early_stop=False)
    together = list(CudaEngine().run_batch(circuit, thetas, protocol, 3, range(3)))
    for k, simulation in enumerate(together):
        assert equal(simulation.recording, CudaEngine(threads=8).run(circuit, thetas[k], protocol, 3, k).recording)


def test_refractory_for_longer_than_can_be_counted() -> None:
    """An error that names the other engine, unless the simulation is over before."""
    circuit = noisy(8)
    cells = dataclasses.replace(circuit.populations[0], refractory="20*second")
    circuit = dataclasses.replace(circuit, name="long_rest", populations=(cells, circuit.populations[1]))
    assert equal(run(counting(), circuit, 0.01).recording, run(NumbaEngine("double"), circuit, 0.01).recording)
    columns = kernel_cuda.columns_of(circuit, False)
    with pytest.raises(CircuitError, match="exc: refractory for more than 65535 steps; engine kernel.numba."):
        cuda_prepare.prepare_one(columns, circuit.default_theta(), Protocol(30.0), 0, 0, np.float64)
