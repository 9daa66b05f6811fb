"""Does `refine` reach a distance with fewer simulations than drawing more from the posterior?

    python -m benchmarks.refine [--only jansen_rit] [--still]

For each circuit: a table of draws of the prior trains a posterior; the observation is a simulation of a configuration
that the table does not hold. Draws of the posterior are simulated again, and so are configurations that `refine` made
of some of them; both distances are means over the same number of simulations. The cost of reaching a distance is the
simulations spent for each configuration that is at least as near (a gradient step counts as three). The table is the
same for both and is left out.
"""

import argparse
import os
import tempfile
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np

from sbi_circuits.campaign import Campaign, run_campaign
from sbi_circuits.circuit import Circuit, Record, get_circuit, register
from sbi_circuits.engines import Protocol, get_engine
from sbi_circuits.ensemble import observe
from sbi_circuits.features import FeatureSet
from sbi_circuits.features.field import Field
from sbi_circuits.gradients.refine import STEP_COST, Target, refine
from sbi_circuits.gradients.smooth import smooth_names
from sbi_circuits.inference import train

REPEATS = 2


@dataclass(frozen=True)
class Case:
    """A circuit, its protocol, and how its signal is measured."""

    name: str
    signal: str
    duration: float
    dt: float
    low: float
    high: float
    truth: tuple[tuple[str, float], ...]
    still: bool = False

    def circuit(self) -> Circuit:
        """As it ships; or without noise, and with cells that are alike, so that a distance can become 0."""
        circuit = get_circuit(self.name)
        if not self.still:
            return circuit
        if "sigma" in circuit.prior.names:
            return circuit.fix(sigma=0.0)
        return replace(circuit, constants={**dict(circuit.constants), "spread": "0"})  # type: ignore[arg-type]

    def protocol(self) -> Protocol:
        return Protocol(self.duration, 0.4, Record(counts=False, signals=(self.signal,), signal_rate=500.0), dt=self.dt)

    def field(self) -> Field:
        return Field(signal=self.signal, low=self.low, high=self.high)


CASES = (
    Case("jansen_rit", "field", 1.0, 2e-3, 2, 45, (("sigma", 2.0), ("a", 90.0), ("p", 250.0))),
    Case("wilson_cowan", "E", 1.0, 2e-3, 2, 60, (("sigma", 0.02), ("tau_e", 10.0), ("P", 1.4))),
    Case("leg_rhythm", "E1", 1.0, 2e-3, 2, 60, (("drive", 330.0), ("N_i1_e2", 120.0))),
)


def distances(case: Case, theta: np.ndarray, target: Target, seed: int) -> np.ndarray:
    """Mean distance of each configuration over `REPEATS` simulations; infinite where one has no features."""
    features = FeatureSet((case.field(),))
    chosen = [features.names.index(f"field.{n}") for n in target.features]
    rows = np.repeat(theta, REPEATS, axis=0)
    found = []
    runs = get_engine("kernel[numba]").run_batch(case.circuit(), rows, case.protocol(), seed, range(len(rows)))
    for simulation in runs:
        measured = None if simulation.recording is None else features.measure(simulation.recording)
        if measured is None or not measured.defined[chosen].all():
            found.append(np.inf)
        else:
            apart = (measured.values[chosen] - target.values) / target.scale
            found.append(float(np.sqrt(np.mean(apart**2))))
    return np.array(found).reshape(-1, REPEATS).mean(axis=1)


def compare(case: Case, simulations: int, draws: int, members: int, steps: int) -> str:
    """One row of the table."""
    circuit, features = register(case.circuit()), FeatureSet((case.field(),))
    campaign = Campaign(circuit, simulations, features, case.protocol(), seed=0, engine="kernel[numba]")
    with tempfile.TemporaryDirectory() as folder:
        table = run_campaign(campaign, Path(folder) / "table", progress=False)
        rows = table.read()
        posterior = train(table, seed=0)
    names = smooth_names(case.field())
    columns = [features.names.index(f"field.{n}") for n in names]
    defined = (rows.states[:, columns] == 0).all(axis=1) & (rows.outcome == "ok")
    scale = rows.values[defined][:, columns].std(axis=0)
    truth = np.array([{**dict(circuit.defaults), **dict(case.truth)}[n] for n in circuit.prior.names])
    (observation,) = get_engine("kernel[numba]").run_batch(circuit, truth[None], case.protocol(), 77, [0])
    assert observation.recording is not None
    target = Target(names, features.measure(observation.recording).values[columns], scale, case.field())
    theta = posterior(observe(posterior, observation.recording)).sample(draws, seed=0)
    plain = distances(case, theta, target, 5)
    refined = refine(circuit, theta[:members], target, case.protocol(), seed=3, steps=steps, repeats=REPEATS)
    after = distances(case, refined.theta, target, 6)
    own = distances(case, np.tile(truth, (64, 1)), target, 7)
    return _row(case.name, plain, after, own, steps)


def _row(name: str, plain: np.ndarray, after: np.ndarray, own: np.ndarray, steps: int) -> str:
    wanted = float(np.median(after))
    share = float((plain <= wanted).mean())
    drawn = REPEATS / share if share else REPEATS * len(plain)
    spent = (STEP_COST * steps + 2 * REPEATS) / float((after <= wanted).mean())
    bound = "" if share else "more than "
    ratio = f"{bound}{drawn / spent:.2g}"
    return (
        f"| {name} | {np.median(plain):.3f} | {wanted:.3f} | {np.median(own):.3f} | {bound}{drawn:.0f} | {spent:.0f} | "
        f"{ratio} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=[c.name for c in CASES])
    parser.add_argument("--still", action="store_true", help="circuits without noise")
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--steps", type=int, default=15)
    chosen = parser.parse_args()
    print(f"{chosen.simulations} simulations train each posterior; {chosen.draws} draws, {chosen.members} of them "
          f"refined in {chosen.steps} steps; {date.today()}, {os.cpu_count()} logical processors.\n")  # fmt: skip
    print("| circuit | distance of draws | refined | of the truth itself | simulations per draw as near | "
          "per refined one | fewer by |\n| --- | --- | --- | --- | --- | --- | --- |")  # fmt: skip
    for case in CASES:
        if chosen.only in (None, case.name):
            case = replace(case, still=chosen.still)
            print(compare(case, chosen.simulations, chosen.draws, chosen.members, chosen.steps), flush=True)


if __name__ == "__main__":
    main()
