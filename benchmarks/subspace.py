"""Invariant subspaces where the truth is known, and on a real culture; prints what benchmarks/RESULTS.md holds.

    python -m benchmarks.subspace brunel --folder brunel_subspace
    python -m benchmarks.subspace culture --folder culture_subspace --day 9 --well A3
    python -m benchmarks.subspace between --folder culture_subspace --day 9 --well A3

The first two go on where they stopped. `brunel`: the recovered directions against the mean-field theory of Brunel 2000,
J Comput Neurosci 8:183, eq. 4-5 and 21-22. `culture`: one day of a culture, grown to 300 verified configurations.
`between`: that day against other recordings.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import erfcx

from benchmarks.subspace_between import between
from benchmarks.subspace_culture import culture_day
from sbi_circuits import Campaign, FeatureSet, Parameter, Prior, Protocol, Record, TrainingConfig, run_campaign, train
from sbi_circuits.circuit import get_circuit
from sbi_circuits.inference import Posterior, TrainingData
from sbi_circuits.subspace import LocalGeometry, local_geometry, principal_angles, ridge

# Inhibition dominates and the external drive is above threshold: asynchronous states, where the theory holds.
ASYNCHRONOUS = Prior((
    Parameter("g", "1", 4.5, 8.0),
    Parameter("nu_ext", "1", 1.2, 4.0),
    Parameter("J", "mV", 0.1, 0.3),
    Parameter("delay", "ms", 1.0, 2.0),
))  # fmt: skip
C_E, GAMMA, TAU, THETA, V_R, TAU_RP = 1000, 0.25, 0.02, 20.0, 10.0, 0.002
RATE = "isi.rate_mean"


def mean_field_rate(theta: np.ndarray) -> float:
    """Stationary rate, Hz, of one configuration (g, nu_ext, J in mV, delay): the lowest self-consistent one.

    1/nu = tau_rp + tau sqrt(pi) int exp(u^2) (1 + erf u) du between (V_r - mu)/sigma and (theta - mu)/sigma.
    """
    g, nu_ext, weight, _ = theta
    external = nu_ext * THETA / (weight * C_E * TAU)

    def gap(nu: float) -> float:
        mu = C_E * weight * TAU * (external + nu * (1 - g * GAMMA))
        sigma = weight * np.sqrt(C_E * TAU * (external + nu * (1 + g**2 * GAMMA)))
        area = quad(lambda u: erfcx(-u), (V_R - mu) / sigma, (THETA - mu) / sigma)[0]
        return float(1.0 / (TAU_RP + TAU * np.sqrt(np.pi) * area) - nu)

    return float(brentq(gap, 1e-6, 400.0))


def stiff_direction(prior: Prior, z: np.ndarray, step: float = 1e-3) -> np.ndarray:
    """(P,) unit gradient of the theory's log rate in unbounded coordinates: what the rate constrains."""
    ends = [(prior.constrain(z + step * e), prior.constrain(z - step * e)) for e in np.eye(len(z))]
    slope = np.array([np.log(mean_field_rate(a)) - np.log(mean_field_rate(b)) for a, b in ends])
    return np.asarray(slope / np.linalg.norm(slope))


def brunel(folder: Path, rows: int, workers: int) -> None:
    """Directions of a posterior that has seen the mean rate only, against the theory's."""
    circuit = get_circuit("brunel").with_prior(ASYNCHRONOUS)
    protocol = Protocol(duration=0.4, warmup=0.1, record=Record(spikes=1000))
    campaign = Campaign(circuit, rows, FeatureSet.of("isi"), protocol, seed=1, unit=4)
    table = run_campaign(campaign, folder / "table", workers=workers)
    data = TrainingData.from_table(table)
    log_rate = np.log(data.values[:, [data.feature_names.index(RATE)]])
    theory = np.array([np.log(mean_field_rate(t)) for t in data.theta])
    away = np.exp(log_rate[:, 0] - theory) - 1
    print(f"{len(away)} simulations; rate over the theory's: median {np.median(away):+.1%}, "
          f"90 % within {np.quantile(np.abs(away), 0.9):.1%}")  # fmt: skip
    states = np.zeros(log_rate.shape, dtype=np.uint8)
    mixed = np.random.default_rng(0).permutation(len(theory))
    for name, seen in (("rate", log_rate), ("shuffled rate (control)", log_rate[mixed])):
        only = TrainingData(data.theta, seen, states, ASYNCHRONOUS, (RATE,))
        posterior = train(only, TrainingConfig(members=5, drop=0.0), progress=False, seed=0)
        print(directions(posterior, seen).summary(name))


@dataclass(frozen=True)
class Directions:
    """Recovered directions against the theory's at points of several observations.

    Args:
        stiff: (n,) degrees between the stiffest directions, in all parameters.
        sloppy: (n,) degrees between the sloppy directions in the plane of g and the external rate.
        dimension: (n,) sloppy dimensions; information: (n,) of the stiffest direction, in units of the prior's.
    """

    stiff: np.ndarray
    sloppy: np.ndarray
    dimension: np.ndarray
    information: np.ndarray

    def summary(self, name: str) -> str:
        """One line."""
        counts = dict(zip(*(x.tolist() for x in np.unique(self.dimension, return_counts=True)), strict=True))
        both = (self.stiff, self.sloppy)
        stiff, sloppy = (f"{np.median(x):.1f} degrees (90 %: {np.quantile(x, 0.9):.1f})" for x in both)
        return (f"{name}: {len(self.stiff)} points; stiff direction {stiff} from the theory's; sloppy direction in "
                f"(g, nu_ext) {sloppy}; sloppy dimensions {counts}; information of the stiffest "
                f"{np.median(self.information):.1f} times the prior's")  # fmt: skip


def directions(posterior: Posterior, seen: np.ndarray, each: int = 24) -> Directions:
    """Directions at `each` posterior draws of five observations that span the seen (n, 1)."""
    found = []
    for x in np.quantile(seen, [0.1, 0.3, 0.5, 0.7, 0.9]):
        density = posterior(np.array([x]))
        z = np.clip(posterior.prior.unconstrain(density.sample(each, seed=1)), -2.0, 2.0)
        local = local_geometry(density, ridge(density, z))
        # Near the edges of the prior a flow is steep on its own account.
        inside = np.flatnonzero(np.abs(local.z).max(1) < 2.0)
        found += [_angles(local, k, stiff_direction(posterior.prior, local.z[k])) for k in inside]
    return Directions(*np.array(found).T)


def _angles(local: LocalGeometry, k: int, truth: np.ndarray) -> tuple[float, float, float, float]:
    stiff = principal_angles(local.directions[k, :1], truth[None])[0]
    # In the plane of g and the external rate, the others held: at right angles to the gradient.
    recovered = np.linalg.eigh(local.information[k][:2, :2])[1][:, 0]
    sloppy = np.array([-truth[1], truth[0]]) / np.linalg.norm(truth[:2])
    away = np.arccos(min(1.0, abs(float(recovered @ sloppy))))
    return float(np.degrees(stiff)), float(np.degrees(away)), float(local.dimension[k]), float(local.eigenvalues[k, 0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("brunel", "culture", "between"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--posterior", default="adex_clustered", help="for culture: name or folder")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--day", type=int, default=9)
    parser.add_argument("--well", default="A3")
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    if given.what == "brunel":
        brunel(given.folder, given.rows, given.workers)
    elif given.what == "culture":
        culture_day(given.folder, given.posterior, given.day, given.well, given.n, given.workers)
    else:
        between(given.folder, given.posterior, given.day, given.well, 10, given.workers)
