"""Circuits are values: hashable, stable digests, and one clear line for everything that does not fit."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sbi_circuits import circuit as circuits
from sbi_circuits.campaign import Campaign
from sbi_circuits.circuit import (
    AllToAll,
    Circuit,
    CurrentSteps,
    EarlyStop,
    EdgeList,
    Explicit,
    FixedIndegree,
    FixedTotal,
    Independent,
    OneToOne,
    PoissonInput,
    Population,
    Projection,
    Record,
    Stimulus,
    get_circuit,
    list_circuits,
    register,
)
from sbi_circuits.engines import Protocol
from sbi_circuits.engines.setup import prepare
from sbi_circuits.errors import CircuitError, PriorError, SbiCircuitsError, UnknownNameError
from sbi_circuits.features import FeatureSet
from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.simulation import simulate

SHIPPED = ("adex_clustered", "brunel", "hodgkin_huxley", "izhikevich", "lif_stp")
PRIOR = Prior((Parameter("tau", "ms", 1, 100), Parameter("p", "1", 0, 1)))
EQUATIONS = "dv/dt = (I - v)/tau : volt (unless refractory)"


def population(name: str = "cell", **changes: object) -> Population:
    settings: dict[str, object] = {
        "size": "10", "equations": EQUATIONS, "threshold": "v > 20*mV", "reset": "v = 0*mV",
        "refractory": "2*ms",
    }  # fmt: skip
    return Population(name=name, **{**settings, **changes})  # type: ignore[arg-type]


def projection(**changes: object) -> Projection:
    settings: dict[str, object] = {
        "name": "recurrent", "source": "cell", "target": "cell", "wiring": Independent("p"), "weight": "1*mV",
        "on_spike": "v_post += weight",
    }  # fmt: skip
    return Projection(**{**settings, **changes})  # type: ignore[arg-type]


def build(**changes: object) -> Circuit:
    settings: dict[str, object] = {
        "name": "toy",
        "prior": PRIOR,
        "populations": (population(),),
        "projections": (projection(),),
        "inputs": (CurrentSteps("cell", "I", "mV", ((0.0, "25*mV"),)),),
        "constants": {"N": "10"},
        "defaults": {"tau": 10, "p": 0.5},
    }
    return Circuit(**{**settings, **changes})  # type: ignore[arg-type]


def in_population(**changes: object) -> Callable[[], Circuit]:
    return lambda: build(populations=(population(**changes),))


def in_projection(**changes: object) -> Callable[[], Circuit]:
    return lambda: build(projections=(projection(**changes),))


def with_input(entry: object) -> Callable[[], Circuit]:
    return lambda: build(inputs=(CurrentSteps("cell", "I", "mV", ((0.0, "25*mV"),)), entry))


def at(**values: float) -> Callable[[], object]:
    """Sets up a configuration that cannot be, outside the prior, where construction does not look."""
    circuit = build(
        populations=(population(size="10*p + 1"),),
        projections=(projection(delay="tau"), projection(name="degree", wiring=FixedIndegree("5*p"))),
        inputs=(*build().inputs, PoissonInput("cell", "v", "5", "1*Hz", "1*mV", fraction="tau/(100*ms)")),
    )
    theta = np.array([{"tau": 1.0, "p": 0.5, **values}[name] for name in ("tau", "p")])
    return lambda: prepare(circuit, theta, Protocol(1.0), 0, 0)


STP = {
    "equations": "dx/dt = (1 - x)/tau : 1 (event-driven)", "initial": {"x": "1"},
    "on_spike": "v_post += weight*x; x *= 1 - p",
}  # fmt: skip
NOISY = "dv/dt = -v/tau + 1*mV*xi_a*tau**-0.5 + 1*mV*xi_b*tau**-0.5 : volt"
GAP = EQUATIONS.replace("(I - v)", "(I + gap - v)") + "\ngap : volt"
JUNCTION = {"on_spike": "", "summed": "gap_post = p*(v_pre - v_post)", "wiring": AllToAll()}


def with_gap(**changes: object) -> Callable[[], Circuit]:
    return lambda: build(
        populations=(population(equations=GAP),), projections=(projection(**{**JUNCTION, **changes}),)
    )


def in_prior(low: float, high: float, **changes: object) -> Callable[[], Circuit]:
    """The toy circuit with a projection, under a prior with other bounds of tau (ms)."""
    prior = Prior((Parameter("tau", "ms", low, high), Parameter("p", "1", 0, 1)))
    return lambda: build(prior=prior, projections=(projection(**changes),), defaults={})


BAD: dict[str, Callable[[], object]] = {
    "no population": lambda: build(populations=(), projections=(), inputs=()),
    "same population": lambda: build(populations=(population(),) * 2),
    "same projection": lambda: build(projections=(projection(),) * 2),
    "dt": lambda: build(dt=0.0),
    "name": lambda: build(name="my toy"),
    "population name": lambda: population(name="a b"),
    "method": in_population(method="leapfrog"),
    "threshold without reset": in_population(reset=""),
    "equations": in_population(equations="dv/dt = ("),
    "undefined name": in_population(equations="dv/dt = (I - v)/tau_m : volt"),
    "units of an equation": in_population(equations="dv/dt = I - v : volt"),
    "units of a threshold": in_population(threshold="v > 20*ms"),
    "reset of no variable": in_population(reset="u = 0*mV"),
    "reset": in_population(reset="v"),
    "initial": in_population(initial={"v": "3*ms"}),
    "initial of no variable": in_population(initial={"u": "3*ms"}),
    "refractory": in_population(refractory="2*mV"),
    "size": in_population(size="2*mV"),
    "source": in_projection(source="exc"),
    "target variable": in_projection(on_spike="g_post += weight"),
    "on_spike": in_projection(on_spike="v += weight"),
    "increment": in_projection(on_spike="v_post += weight*q"),
    "weight": in_projection(weight="1*nS"),
    "delay": in_projection(delay="1*mV"),
    "wiring": in_projection(wiring=Independent("q")),
    "labels": in_projection(wiring=FixedTotal("p", "same_label")),
    "pairs": lambda: FixedTotal("p", "cluster"),
    "negative pair": lambda: Explicit(((0, -1),)),
    "silent source": in_population(threshold="", reset=""),
    "input target": with_input(PoissonInput("exc", "v", "1", "1*Hz", "1*mV")),
    "input variable": with_input(PoissonInput("cell", "g", "1", "1*Hz", "1*mV")),
    "input rate": with_input(PoissonInput("cell", "v", "1", "1*mV", "1*mV")),
    "input weight": with_input(PoissonInput("cell", "v", "1", "1*Hz", "1*nS")),
    "step times": lambda: CurrentSteps("cell", "I", "mV", ((1, "1*mV"), (1, "2*mV"))),
    "stimulus shape": lambda: Stimulus("cell", "I", "mV", np.zeros((3, 2, 2)), 1e-3),
    "stimulus not finite": lambda: Stimulus("cell", "I", "mV", np.array([0.0, np.nan]), 1e-3),
    "stimulus dt": lambda: Stimulus("cell", "I", "mV", np.zeros(3), 0.0),
    "stimulus for other units": with_input(Stimulus("cell", "J", "mV", np.zeros((20, 7)), 1e-3)),
    "stimulus of no population": with_input(Stimulus("cells", "J", "mV", np.zeros((20, 10)), 1e-3)),
    "stimulus scale": with_input(Stimulus("cell", "J", "mV", np.zeros((20, 10)), 1e-3, "tau")),
    "step units": with_input(CurrentSteps("cell", "J", "mV", ((0, "1*nS"),))),
    "constant twice": lambda: build(constants={"tau": "1*ms"}),
    "constant": lambda: build(constants={"N": "M + 1"}),
    "early stop population": lambda: build(early_stop=EarlyStop("exc", "2*ms")),
    "early stop window": lambda: build(early_stop=EarlyStop("cell", "2*ms", start=2.0)),
    "record nothing": lambda: Record(counts=False),
    "record too little": lambda: Record(spikes=-2),
    "no duration": lambda: Protocol(0.0),
    "protocol dt": lambda: Protocol(1.0, dt=-1e-4),
    "unknown circuit": lambda: get_circuit("hodgkin"),
    "unknown population": lambda: build().population("exc"),
    "no default": lambda: build(defaults={"tau": 10}).default_theta(),
    "fix of no parameter": lambda: build().fix(q=1.0),
    "prior of another circuit": lambda: build().with_prior(Prior((Parameter("q", "1", 0, 1),))),
    "noise": in_population(equations=NOISY, method="rk4"),
    "unknown noise": in_population(equations=NOISY.replace("xi_a", "x_a")),
    "function in an equation": in_population(equations="dv/dt = (where(v > 0*mV, I, -v) - v)/tau : volt"),
    "function in a threshold": in_population(threshold="round(v/mV) > 20"),
    "function in a reset": in_population(reset="v = maximum(v, 0*mV)"),
    "no such function": in_population(equations="dv/dt = erf(v/mV)*mV/tau : volt"),
    "units of an argument": in_population(equations="dv/dt = exp(v)*mV/tau : volt"),
    "reset of a subexpression": in_population(equations=EQUATIONS + "\nu = 2*v : volt", reset="u = 0*mV"),
    "initial before its time": in_population(
        equations=EQUATIONS + "\nu : volt", initial={"v": "2*u", "u": "1*mV"}),
    "negative size": in_population(size="N - 11"),
    "size at a bound": in_population(size="10*p"),
    "negative labels": in_population(labels="-2"),
    "negative refractory": in_population(refractory="-2*ms"),
    "refractory at a bound": in_population(refractory="5*ms - tau"),
    "no effect": in_projection(on_spike=""),
    "effect on a subexpression": lambda: build(
        populations=(population(equations=EQUATIONS + "\nu = 2*v : volt"),),
        projections=(projection(on_spike="u_post += weight"),)),
    "increment units": in_projection(on_spike="v_post += weight*tau"),
    "no wiring": in_projection(wiring="all"),
    "negative delay": in_projection(delay="-1*ms"),
    "negative delay at a bound": in_prior(-5, 5, delay="tau"),
    "negative drawn delay": in_projection(delay="2*ms - 3*ms*rand()"),
    "delay below dt": in_projection(delay="0.05*ms"),
    "delay below dt at a bound": in_prior(0.02, 5, delay="tau"),
    "probability": in_projection(wiring=Independent("1.5")),
    "negative probability": in_projection(wiring=FixedTotal("-p")),
    "probability at a bound": in_projection(wiring=Independent("3*p")),
    "negative degree": in_projection(wiring=FixedIndegree("-1")),
    "degree above the sources": in_projection(wiring=FixedIndegree("N")),
    "one to one": lambda: build(
        populations=(population(), population("other", size="11", equations="dv/dt = -v/tau : volt")),
        projections=(projection(target="other", wiring=OneToOne()),)),
    "pair outside": in_projection(wiring=Explicit(((0, 10),))),
    "synaptic equations": in_projection(**{**STP, "equations": "dx/dt = ("}),
    "units of a synaptic equation": in_projection(**{**STP, "equations": "dx/dt = 1 - x : 1 (event-driven)"}),
    "undefined name at a synapse": in_projection(**{**STP, "on_spike": "v_post += weight*x*y"}),
    "units of a synaptic variable": in_projection(**{**STP, "on_spike": "v_post += weight; x = v_post"}),
    "initial of no synaptic variable": in_projection(**{**STP, "initial": {"u": "1"}}),
    "reserved name": in_projection(**{**STP, "equations": STP["equations"] + "\nweight : 1"}),
    "two meanings": lambda: build(
        populations=(population(equations=EQUATIONS + "\np : 1"),),
        projections=(projection(on_spike="v_post += weight*p"),)),
    "summed variable": with_gap(summed="v_post = p*(v_pre - v_post)"),
    "summed units": with_gap(summed="gap_post = p*v_pre/tau"),
    "summed delay": with_gap(delay="1*ms"),
    "gap junction one way": lambda: Explicit(((0, 1), (1, 0), (1, 2)), symmetric=True),
    "gap junctions listed one way": with_gap(wiring=Explicit(((0, 1), (1, 0), (3, 2)))),
    "gap junctions drawn": with_gap(wiring=Independent("p")),
    "gap junctions with random weights": with_gap(weight="rand()", summed="gap_post = weight*(v_pre - v_post)"),
    "measured gap junctions one way": with_gap(wiring=EdgeList([0, 1, 2], [1, 0, 1])),
    "measured gap junctions unequal": with_gap(wiring=EdgeList([0, 1], [1, 0], {"count": [2, 3]}), weight="count"),
    "summed twice": lambda: build(
        populations=(population(equations=GAP),),
        projections=(projection(**JUNCTION), projection(name="again", **JUNCTION))),
    "negative sources": with_input(PoissonInput("cell", "v", "-5", "1*Hz", "1*mV")),
    "negative rate": with_input(PoissonInput("cell", "v", "5", "-p*Hz", "1*mV")),
    "fraction": with_input(PoissonInput("cell", "v", "5", "1*Hz", "1*mV", fraction="1.2")),
    "size at theta": at(p=-1.0),
    "probability at theta": at(p=1.5),
    "delay at theta": at(tau=-1.0),
    "fraction at theta": at(tau=120.0),
}


def message(make: Callable[[], object]) -> str:
    """The error's text, without what the parser of equations adds in the words of its version."""
    with pytest.raises((CircuitError, UnknownNameError, PriorError)) as error:
        make()
    assert isinstance(error.value, SbiCircuitsError)
    text = str(error.value)
    assert "\n" not in text
    return re.sub(r"(cannot read the equations): .+", r"\1", text)


def test_bad_input_gets_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuits, "_REGISTERED", {})
    found = "".join(f"{case}: {message(make)}\n" for case, make in BAD.items())
    assert found == (Path(__file__).parent / "golden" / "circuit_errors.txt").read_text()


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("adex_clustered", "18efbb4104ecfd4441f3d6d3bfde09256bfcf813f3ffd762c7ee89a1386da5a1"),
        ("brunel", "dbe0c29aa1318a734793f69d316b029c28eb1a69a5f530fd0f7fcb99b7168a42"),
        ("hodgkin_huxley", "33958c6657dead994868545f8c0a12b7078e256dfda9026946f758cbd4f928ce"),
        ("izhikevich", "b44579c31965d5ddcdb8f3a189a1891f0b9904a27cda6f6dfd19f737cf224b3c"),
        ("lif_stp", "2b3809620475860b4cc14c7aa7f32b636f047511ddb82edf37c489204db0420f"),
    ],
)
def test_digests_are_stable(name: str, digest: str) -> None:
    """A digest that changes disowns every table made with it: change it only with the mechanism."""
    assert get_circuit(name).digest == digest


def test_gap_junctions_alike_in_both_directions_are_taken_and_others_where_asked_for() -> None:
    pairs = ((0, 1), (1, 0), (2, 1))
    for wiring in (AllToAll(), Explicit(pairs[:2]), Explicit(pairs, symmetric=False), EdgeList([0, 1], [1, 0]),
                   EdgeList([0], [1], symmetric=False), EdgeList([0, 1], [1, 0], {"count": [2, 3]})):  # fmt: skip
        with_gap(wiring=wiring)()
    with_gap(wiring=Explicit(pairs), summed="gap_post = p*(2*v_pre - v_post)")()  # no gap junction


def test_a_stimulus_that_ends_too_early_names_what_is_expected() -> None:
    circuit = with_input(Stimulus("cell", "J", "mV", np.zeros((20, 10)), 1e-3))()
    assert isinstance(circuit, Circuit)
    lacking = r"stimulus J of population cell has 20 samples of 0.001 s, 0.02 s; the simulation lasts 0.0201 s with "
    for make in (
        lambda: prepare(circuit, circuit.default_theta(), Protocol(0.0151, 0.005), 0, 0),
        lambda: list(simulate(circuit, circuit.default_theta(), 0.0151, warmup=0.005)),
        lambda: Campaign(circuit, 3, FeatureSet.of("isi"), Protocol(0.0151, 0.005)),
    ):
        with pytest.raises(CircuitError, match=lacking + "its warmup; expected at least 21 samples"):
            make()
    assert prepare(circuit, circuit.default_theta(), Protocol(0.015, 0.005), 0, 0).courses[0].rows[-1] == 19


def test_stimuli_are_equal_where_their_content_is() -> None:
    values = np.arange(6.0).reshape(3, 2)
    one, same = (Stimulus("cell", "I", "mV", values.copy(), 1e-3) for _ in range(2))
    others = [Stimulus("cell", "I", "mV", values + 1, 1e-3), Stimulus("cell", "I", "mV", values, 2e-3)]
    assert one == same and hash(one) == hash(same) and one not in others and not one.values.flags.writeable
    circuits_ = [with_input(Stimulus("cell", "J", "mV", values[:, :1] + k, 1e-3))() for k in (0, 0, 1)]
    digests = [c.digest for c in circuits_ if isinstance(c, Circuit)]
    assert digests[0] == digests[1] != digests[2]


def test_a_digest_is_of_the_mechanism() -> None:
    circuit = build()
    other = Prior((Parameter("tau", "ms", 5, 50, "log", "x"), Parameter("p", "1", 0, 0.5)))
    same = [
        build(),
        build(title="a title", source="a paper", defaults={}),
        circuit.with_prior(other),
        build(constants=(("N", "10"),)),
    ]
    assert {c.digest for c in same} == {circuit.digest}
    changed = [
        build(dt=2e-4),
        build(constants={"N": "11"}),
        build(populations=(population(refractory="3*ms"),)),
        build(projections=(projection(wiring=FixedTotal("p")),)),
        build(projections=()),
        build(early_stop=EarlyStop("cell", "2*ms")),
        build().fix(p=0.5),
    ]
    assert len({circuit.digest, *(c.digest for c in changed)}) == len(changed) + 1


def test_circuits_are_hashable_values() -> None:
    assert build() == build() and hash(build()) == hash(build())
    assert len({build(), build(), build(dt=2e-4)}) == 2
    with pytest.raises(AttributeError):
        build().dt = 1e-3  # type: ignore[misc]


def test_the_registry_lists_what_is_installed_and_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuits, "_REGISTERED", {})
    assert set(SHIPPED) <= set(list_circuits())
    assert register(build()) == get_circuit("toy")
    assert "toy" in list_circuits()
    assert get_circuit("brunel") is get_circuit("brunel")


def test_the_prior_of_a_circuit_fits_it() -> None:
    for name in SHIPPED:
        circuit = get_circuit(name)
        assert circuit.title and circuit.source and circuit.early_stop
        assert circuit.prior.contains(circuit.default_theta())
        assert set(dict(circuit.defaults)) == set(circuit.prior.names)


def test_fixed_parameters_become_constants() -> None:
    circuit = get_circuit("adex_clustered")
    fixed = circuit.fix(tau_w=500.0, E_gi=-80.0)
    assert len(fixed.prior) == 26 and fixed.default_theta().shape == (26,)
    expected = circuit.values(circuit.default_theta())
    assert fixed.values(fixed.default_theta()) == pytest.approx(expected, rel=1e-12)


def test_values_are_si() -> None:
    circuit = get_circuit("adex_clustered")
    values = circuit.values(circuit.default_theta())
    assert values["C"] == pytest.approx(200e-12) and values["E_gi"] == pytest.approx(-0.08)
    inhibitory = circuit.namespace(circuit.population("inh"), {**values, "C": 1.0})
    assert inhibitory["C"] == pytest.approx(200e-12) and inhibitory["Q_i2i"] == values["Q_i2i"]


def test_a_configuration_as_numbers() -> None:
    circuit = build(
        populations=(population(size="9.999999999999", initial={"v": "1*mV*i_0 + 1*mV*rand()"}),),
        constants={"i_0": "2"},
        inputs=(CurrentSteps("cell", "I", "mV", ((0.01, "25*mV"), (0.5, "0*mV"))),
                PoissonInput("cell", "v", "5", "3*Hz", "1*mV", fraction="0.35")),
        projections=(projection(wiring=AllToAll(), delay="0.26*ms"), projection(name="gone", when="p > 1")),
    )  # fmt: skip
    theta = circuit.default_theta()
    setup = prepare(circuit, theta, Protocol(1.0, warmup=0.3, record=Record(spikes=4)), 1, 2)
    (cells,), (synapses,), (poisson,), (steps,) = setup.cells, setup.synapses, setup.poisson, setup.currents
    assert (setup.steps, setup.warmup_steps, cells.size, cells.refractory_steps) == (13000, 3000, 10, 20)
    assert (synapses.delay_steps, len(synapses.rows.targets), synapses.variables) == (3, 90, ("v",))
    assert (poisson.driven, poisson.sources, poisson.rate) == (3, 5, 3.0)
    assert steps.starts.tolist() == [100, 5000] and steps.values.tolist() == pytest.approx([0.025, 0])
    assert ((cells.initial["v"] >= 2e-3) & (cells.initial["v"] < 3e-3)).all()
    assert len(setup.recorded) == 4 and setup.groups() == ("cell",) * 4
    again = prepare(circuit, theta, Protocol(0.1), 1, 2)
    assert np.array_equal(again.cells[0].initial["v"], cells.initial["v"])
    other = prepare(circuit, theta, Protocol(0.1), 1, 3)
    assert not np.array_equal(other.cells[0].initial["v"], cells.initial["v"])


def test_the_two_wirings_of_the_flagship_exclude_each_other() -> None:
    circuit = get_circuit("adex_clustered")
    small = replace(circuit, constants={**dict(circuit.constants), "n_total": "100"})
    names = [p.name for p in circuit.projections]

    def present(**values: float) -> set[str]:
        theta = circuit.prior.validate({**dict(circuit.defaults), **values})
        return {names[s.number] for s in prepare(small, theta, Protocol(1.0), 0, 0).synapses}

    others = {"e2i", "i2e", "i2i"}
    assert present() == {"e2e_within", "e2e_between"} | others
    assert present(n_clusters=1.99) == present(R_pe2e=1.0) == {"e2e"} | others
