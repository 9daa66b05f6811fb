"""LFP proxies of circuits that spike: reduced inside the kernels, equal to Brian2's, and of the published form."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from sbi_circuits.circuit import Circuit, FieldProxy, Record, get_circuit, with_lfp
from sbi_circuits.engines import Protocol
from sbi_circuits.engines.brian2_engine import Brian2Engine
from sbi_circuits.engines.rate_numba import CompiledEngine
from sbi_circuits.errors import CircuitError, SbiCircuitsError, UnknownNameError
from sbi_circuits.features import FeatureSet
from tests.scenarios.circuits import MICRO_CIRCUITS
from tests.scenarios.lfp import LFP_CIRCUITS, PROTOCOL, largest_difference, recorded, shipped


@pytest.mark.parametrize(
    "name", [n if n == "adex_quartet" else pytest.param(n, marks=pytest.mark.slow) for n in LFP_CIRCUITS]
)
def test_the_kernel_reduces_as_brian2_does(name: str) -> None:
    circuit = LFP_CIRCUITS[name]
    expected, found = (recorded(e, circuit) for e in (Brian2Engine("numpy"), CompiledEngine("double")))
    assert np.array_equal(found.times, expected.times) and len(found.times) > 3
    assert largest_difference(found, expected) < 1e-11
    single = recorded(CompiledEngine(), circuit)
    if np.allclose(single.times, expected.times):  # a spike in another step is another current
        assert 0 < largest_difference(single, expected) < 1e-3
    other = recorded(CompiledEngine("double"), circuit, 0.97)
    assert largest_difference(other, expected) > 1e-3


def test_the_proxy_is_the_published_sum() -> None:
    """AMPA 6 ms before, less 1.65 GABA; at the beginning of a simulation AMPA counts as at its start."""
    circuit = LFP_CIRCUITS["adex_quartet"]
    signals = recorded(CompiledEngine("double"), circuit, warmup=0.0).signals
    lfp, ampa, gaba = (signals[n].values[0] for n in ("lfp", "ampa", "gaba"))
    assert ampa.max() > 0 > gaba.min()
    assert np.allclose(lfp[6:], ampa[:-6] - 1.65 * gaba[6:], rtol=1e-12, atol=1e-9)
    assert np.allclose(lfp[:6], ampa[0] - 1.65 * gaba[:6], rtol=1e-12, atol=1e-9)
    late = recorded(CompiledEngine("double"), circuit, warmup=0.02, duration=0.08)
    assert late.signals["lfp"].t0 == late.t0 == 0.02
    assert np.array_equal(late.signals["lfp"].values[0], lfp[20:])
    alone = recorded(CompiledEngine("double"), circuit, signals=("lfp",), warmup=0.02, duration=0.08)
    assert set(alone.signals) == {"lfp"} and np.array_equal(alone.signals["lfp"].values[0], lfp[20:])


def test_signals_change_nothing_else() -> None:
    circuit = LFP_CIRCUITS["adex_quartet"]
    plain = replace(circuit, readouts=(), proxies=())
    without = CompiledEngine("double").run(plain, plain.default_theta(), replace(PROTOCOL, record=Record(-1)), 7, 0)
    assert without.recording is not None and len(without.recording.times) > 3
    assert np.array_equal(recorded(CompiledEngine("double"), circuit).times, without.recording.times)
    assert circuit.digest != plain.digest == MICRO_CIRCUITS["adex_quartet"].digest


@pytest.mark.slow
def test_features_of_a_shipped_network() -> None:
    """The proxy of the clustered network, small: features are defined, and white noise for spikes is told apart."""
    circuit = shipped(n_total="200")
    record = Record(signals=("lfp",))
    protocol = Protocol(2.2, 0.3, record, early_stop=False)
    simulation = CompiledEngine().run(circuit, circuit.default_theta(), protocol, 1, 0)
    assert simulation.recording is not None
    features = FeatureSet.of(field={"signal": "lfp", "low": 2, "high": 80, "relative": True})
    found = features.measure(simulation.recording)
    slope = found.values[features.names.index("field.slope")]
    # Synapses of 5 ms low-pass what comes in: power falls with frequency.
    assert found.defined[features.names.index("field.log_power_gamma")] and -4 < slope < -0.5


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "unit": (lambda: with_lfp(get_circuit("adex_clustered"), ampa="g_e"), "has units"),
    "population": (lambda: with_lfp(get_circuit("adex_clustered"), "pyramidal"), "unknown population of readout ampa"),
    "readout": (lambda: lfp_of(FieldProxy("f", (("nmda", 1, 0),), "pA")), "unknown readout of proxy f 'nmda'; valid:"),
    "each": (lambda: lfp_of(FieldProxy("f", (("v", 1, 0),), "mV")), "adds readouts of its unit over sum or mean; v is"),
    "terms": (lambda: FieldProxy("f", (), "pA"), r"needs terms \(readout, weight, delay in s\)"),
    "delay": (lambda: FieldProxy("f", (("ampa", 1, -1e-3),), "pA"), "no delay below 0"),
    "same name": (lambda: lfp_of(FieldProxy("ampa", (("gaba", 1, 0),), "pA")), "need distinct names"),
    "rate": (lambda: recorded(CompiledEngine(), LFP_CIRCUITS["adex_quartet"], rate=250.0), "no whole number of"),
    "signal": (lambda: recorded(CompiledEngine(), LFP_CIRCUITS["adex_quartet"], signals=("lpf",)), "valid: ampa, "),
}


def lfp_of(proxy: FieldProxy) -> Circuit:
    circuit = LFP_CIRCUITS["adex_quartet"]
    return replace(circuit, proxies=(proxy,))


@pytest.mark.parametrize("case", BAD)
def test_bad_proxies_get_one_clear_line(case: str) -> None:
    make, text = BAD[case]
    with pytest.raises((CircuitError, UnknownNameError), match=text) as error:
        make()
    assert isinstance(error.value, SbiCircuitsError) and "\n" not in str(error.value)
