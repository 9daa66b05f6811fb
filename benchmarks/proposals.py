"""Do gradient-informed proposals make a second round of simulations worth more?

    python -m benchmarks.proposals [--only jansen_rit]

For each circuit of `benchmarks.refine`: draws of the prior train a posterior; the observation is a simulation of a
configuration that the table does not hold. A second round of the same cost is simulated four ways: with draws of the
posterior (plain), with a mixture around refined draws (gradients; what refining and its Jacobians cost, in simulations,
is taken off its number), with more draws of the prior, and not at all. Plain and gradients have a fifth of the prior
mixed in and exact importance weights. Each posterior that is trained on both rounds is judged by simulating its draws
again: their distance from the observation, how many are as near as the true configuration is half the time, and how
many are verified.
"""

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.refine import CASES, Case, distances
from sbi_circuits.campaign import Campaign, TableProposal, run_campaign
from sbi_circuits.circuit import Circuit, register
from sbi_circuits.engines import get_engine
from sbi_circuits.ensemble import observe
from sbi_circuits.features import FeatureSet
from sbi_circuits.gradients import GradientProposal, Target, gradient_proposal, with_prior_part
from sbi_circuits.gradients.smooth import smooth_names
from sbi_circuits.inference import TrainingConfig, train
from sbi_circuits.table import concat

SHARE = 0.2


@dataclass(frozen=True)
class Sizes:
    """Simulations of both rounds, draws that judge a posterior, draws that are refined and steps of it; members of each
    posterior and epochs of their training, 0 for those derived from the number of rows."""

    first: int
    second: int
    judged: int
    refined: int
    steps: int
    members: int = 0
    epochs: int = 0

    @property
    def config(self) -> TrainingConfig:
        return TrainingConfig(members=self.members, epochs=self.epochs)


class World:
    """One circuit with its first table, posterior and observation."""

    def __init__(self, case: Case, sizes: Sizes, folder: Path):
        self.case, self.sizes, self.folder = case, sizes, folder
        self.circuit: Circuit = register(case.circuit())
        self.features = FeatureSet((case.field(),))
        self.first = self.table(None, sizes.first, 0)
        self.before = train(self.first, sizes.config, seed=0)
        values = {**dict(self.circuit.defaults), **dict(case.truth)}
        self.truth = np.array([values[n] for n in self.circuit.prior.names])
        (found,) = get_engine("kernel[numba]").run_batch(self.circuit, self.truth[None], case.protocol(), 77, [0])
        assert found.recording is not None
        self.x = observe(self.before, found.recording)
        self.target = self._target(found.recording)
        self.own = distances(case, np.tile(self.truth, (64, 1)), self.target, 7)

    def table(self, proposal: TableProposal | None, n: int, seed: int) -> Any:
        campaign = Campaign(self.circuit, n, self.features, self.case.protocol(), seed=seed, engine="kernel[numba]",
                            proposal=proposal)  # fmt: skip
        return run_campaign(campaign, self.folder / f"{seed}", progress=False)

    def _target(self, recording: Any) -> Target:
        names = smooth_names(self.case.field())
        columns = [self.features.names.index(f"field.{n}") for n in names]
        rows = self.first.read()
        defined = (rows.states[:, columns] == 0).all(axis=1) & (rows.outcome == "ok")
        scale = rows.values[defined][:, columns].std(axis=0)
        return Target(names, self.features.measure(recording).values[columns], scale, self.case.field())

    def plain(self) -> TableProposal:
        """Draws of the posterior so far."""
        there = self.before(self.x)
        theta = there.sample(self.sizes.second, seed=1)
        return with_prior_part(self.circuit.prior, theta, there.log_prob, SHARE, 1, "posterior")

    def gradients(self) -> GradientProposal:
        """A mixture around refined draws of it."""
        theta = self.before(self.x).sample(self.sizes.refined, seed=2)
        return gradient_proposal(self.circuit, theta, self.target, self.case.protocol(), seed=3,
                                 steps=self.sizes.steps, share=SHARE)  # fmt: skip

    def near(self, theta: np.ndarray, seed: int) -> np.ndarray:
        return distances(self.case, theta, self.target, seed)

    def judge(self, label: str, tables: list[Any], number: int, proposed: str) -> str:
        """One row: the posterior trained on some tables, by simulations of its draws."""
        posterior = self.before if len(tables) == 1 else train(concat(tables), self.sizes.config, seed=0)
        apart = self.near(posterior(self.x).sample(self.sizes.judged, seed=5), 6)
        ensemble = posterior.ensemble(self.x, n=40, max_draws=40, seed=0, engine="kernel[numba]")
        verified = f"{int(ensemble.verified.sum())} of {len(ensemble.theta)}"
        density = float(posterior(self.x).log_prob(self.truth[None])[0])
        within = float((apart <= np.median(self.own)).mean())
        cells = (self.case.name, label, number, proposed, f"{np.median(apart):.3f}", f"{within:.1%}", verified,
                 f"{density:.2f}")  # fmt: skip
        return f"| {' | '.join(map(str, cells))} |"


def compare(case: Case, sizes: Sizes, folder: Path) -> None:
    """Print the rows of one circuit."""
    world = World(case, sizes, folder)
    print(world.judge("none", [world.first], 0, "-"), flush=True)
    plain = world.plain()
    table = world.table(plain, sizes.second, 1)
    apart = np.median(world.near(plain.theta[:200], 8))
    print(world.judge("plain", [world.first, table], sizes.second, f"{apart:.3f}"), flush=True)
    began = time.perf_counter()
    proposal = world.gradients()
    seconds, left = time.perf_counter() - began, sizes.second - proposal.simulations
    informed = proposal.sample(left, 4)
    table = world.table(informed, left, 2)
    apart = np.median(world.near(informed.theta[:200], 8))
    print(world.judge("gradients", [world.first, table], left, f"{apart:.3f}"), flush=True)
    print(world.judge("prior", [world.first, world.table(None, sizes.second, 3)], sizes.second, "-"), flush=True)
    print(f"  {case.name}: the proposal cost {proposal.simulations} simulations ({seconds:.0f} s); "
          f"{proposal.refined.summary()}; the truth itself {np.median(world.own):.3f}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=[c.name for c in CASES])
    for name, value in (("first", 1000), ("second", 1500), ("judged", 500), ("refined", 8), ("steps", 8),
                        ("members", 0), ("epochs", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    chosen = parser.parse_args()
    sizes = Sizes(chosen.first, chosen.second, chosen.judged, chosen.refined, chosen.steps, chosen.members,
                  chosen.epochs)  # fmt: skip
    print(f"{sizes}; {date.today()}, {os.cpu_count()} logical processors.\n")
    print("| circuit | second round | its simulations | distance of what it simulates | of draws afterwards | as near "
          "as the truth's median | verified | log density of the truth, nats |\n"
          "| --- | --- | --- | --- | --- | --- | --- | --- |")  # fmt: skip
    for case in CASES:
        if chosen.only in (None, case.name):
            with tempfile.TemporaryDirectory() as folder:
                compare(case, sizes, Path(folder))


if __name__ == "__main__":
    main()
