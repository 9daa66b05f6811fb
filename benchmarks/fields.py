"""Posteriors of rate circuits from fields, checked: the S1 signal with Jansen-Rit, and the leg rhythm.

    python -m benchmarks.fields [--only leg_rhythm]

A table of 2000 draws of the prior trains each posterior; 20 verified configurations are asked for, and 300 simulations
that it has not seen judge it. The S1 signal is looked for in ../shared/data/fields, beside the repository.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from sbi_circuits import Campaign, FeatureSet, Protocol, Record, get_circuit, observe, run_campaign, simulate, train
from sbi_circuits.calibration import HeldOut, calibrate
from sbi_circuits.recording import Recording, Signal

S1 = Path(__file__).resolve().parents[2] / "shared/data/fields/human_meg_s1_ongoing_trials0-699.npz"
ROWS, HELD = 2000, 300


def check(name: str, protocol: Protocol, features: FeatureSet, recording: Recording) -> None:
    """Train, infer, verify and calibrate; prints what was found."""
    circuit = get_circuit(name)
    with tempfile.TemporaryDirectory() as folder:
        tables = [
            run_campaign(Campaign(circuit, n, features, protocol, seed=seed, engine="kernel[numba]"),
                         Path(folder) / str(seed), progress=False)
            for seed, n in enumerate((ROWS, HELD))
        ]  # fmt: skip
        posterior = train(tables[0], seed=0)
        x = observe(posterior, recording)
        draws = posterior(x).sample(1000, seed=0)
        print(f"{name}: {posterior.check(x).summary()}")
        for k, p in enumerate(circuit.prior.parameters):
            low, middle, high = np.quantile(draws[:, k], [0.05, 0.5, 0.95])
            print(f"  {p.name}: {middle:.3g} {p.unit}, 90 % between {low:.3g} and {high:.3g}")
        print(posterior.ensemble(x, n=20, max_draws=80, seed=0, engine="kernel[numba]").summary())
        print(calibrate(posterior, HeldOut.from_table(tables[1]), local=False).summary(), flush=True)


def jansen_rit() -> None:
    protocol = Protocol(1.0, 1.0, Record(counts=False, signals=("field",), signal_rate=600.0), dt=1 / 1200)
    trials = np.load(S1, allow_pickle=False)["signal"].astype(float)
    recording = Recording(0.0, float(len(trials)), signals={"field": Signal(trials.reshape(1, -1), 600.0, "1")})
    check("jansen_rit", protocol, FeatureSet.of(field={"low": 2, "high": 50, "relative": True}), recording)


def leg_rhythm() -> None:
    circuit = get_circuit("leg_rhythm")
    protocol = Protocol(2.0, 0.5, Record(counts=False, signals=("E1", "I1")))
    band = {"signal": "E1", "low": 6, "high": 30}
    # Below the second harmonic: up to 60 Hz it was the highest peak in 8 % of configurations near the observed one, and
    # the frequency of the highest peak then jumped by an octave.
    features = FeatureSet.of(field={"signal": "E1", "low": 2, "high": 22}, oscillation=band)
    values = {**dict(circuit.defaults), "drive": 330.0, "N_i1_e2": 120.0}
    theta = np.array([values[n] for n in circuit.prior.names])
    (observed,) = simulate(circuit, theta, 8.0, seed=77, warmup=0.5, record=protocol.record, engine="kernel[numba]")
    assert observed.recording is not None
    check("leg_rhythm", protocol, features, observed.recording)


CASES = {"jansen_rit": jansen_rit, "leg_rhythm": leg_rhythm}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(CASES))
    only = parser.parse_args().only
    for name, run in CASES.items():
        if only in (None, name):
            run()
