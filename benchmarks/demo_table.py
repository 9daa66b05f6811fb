"""Make the table the demonstration starts from, from nothing: `python benchmarks/demo_table.py FOLDER`.

Of prior draws of `adex_clustered` four in five are silent or saturated, and of the first 2272 none burst like a
culture. So the campaign aims: draws of the prior; then of the prior restricted to where networks are neither, and
burst; then rounds drawn from posteriors for twelve cultures (three wells on each of four days), each trained on all
rows so far. Every row carries its importance weight, prior over the mixture of all proposals, so that training stays
correct under the prior. Interrupted, it resumes; it takes about three hours on two cores.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from sbi_circuits.campaign import Campaign, TableProposal, run_campaign
from sbi_circuits.circuit import Circuit, Record, get_circuit
from sbi_circuits.cultures import DAYS, culture, culture_features, typical_well
from sbi_circuits.demo import AIMED, TABLE
from sbi_circuits.engines import Protocol
from sbi_circuits.inference import Posterior, load_posterior, train
from sbi_circuits.inference.restriction import RestrictedPrior, restrict
from sbi_circuits.inference.weights import balance_weights
from sbi_circuits.table import MemoryTable, Table, concat

SEED = 2026
PRIOR_ROWS, RESTRICTED_ROWS, ROUNDS = 2272, 1532, (1200, 1500, 1984, 1500, 1500, 1200)
PROTOCOL = Protocol(duration=60.0, warmup=2.0, record=Record(spikes=200, counts=True, moments=True))
LogDensity = Callable[[np.ndarray], np.ndarray]


def main(folder: Path, workers: int, scale: float = 1.0) -> None:
    prior_rows, restricted_rows, *rounds = (round(scale * n) for n in (PRIOR_ROWS, RESTRICTED_ROWS, *ROUNDS))
    circuit = get_circuit("adex_clustered")
    tables = [_run(circuit, folder / "prior", prior_rows, 0, None, workers)]
    densities: list[LogDensity] = [circuit.prior.log_prob]
    regions = _regions(tables[0])
    proposal = TableProposal(_sample(regions, restricted_rows), "restricted prior")
    tables.append(_run(circuit, folder / "restricted", restricted_rows, 1, proposal, workers))
    densities.append(_restricted_density(circuit, regions))
    for number, size in enumerate(rounds, start=2):
        posterior = _posterior(tables, folder / f"posterior-{number}", number)
        proposal = TableProposal(_aimed(posterior, size, number), f"posteriors of cultures, round {number - 1}")
        tables.append(_run(circuit, folder / f"round-{number - 1}", len(proposal.theta), number, proposal, workers))
        densities.append(_aimed_density(posterior))
    weighted = weigh(tables, densities)
    path = weighted.export_file(folder / TABLE)
    print(f"{len(weighted)} simulations, {weighted.counts()}; wrote {path}")


def _run(circuit: Circuit, path: Path, n: int, stage: int, proposal: TableProposal | None, workers: int) -> Table:
    if (path / "proposal.parquet").exists():
        proposal = TableProposal.load(path / "proposal.parquet")
    features = culture_features()
    campaign = Campaign(circuit, n, features, PROTOCOL, seed=SEED + stage, proposal=proposal)
    return run_campaign(campaign, path, workers=workers)


def _regions(table: Table) -> tuple[RestrictedPrior, RestrictedPrior]:
    """Where networks run on, and where they burst at least once a minute."""
    rows = table.read()
    ok = rows.outcome == "ok"
    bursts = ok & (rows.values[:, culture_features().names.index("bursts.rate_per_minute")] >= 1)
    prior = table.prior
    return restrict(prior, rows.theta, ok, keep=0.95, seed=1), restrict(prior, rows.theta, bursts, keep=0.9, seed=2)


def _sample(regions: tuple[RestrictedPrior, RestrictedPrior], n: int) -> np.ndarray:
    pool = regions[0].prior.sample(40 * n, seed=12345)
    return pool[regions[0].accepts(pool) & regions[1].accepts(pool)][:n]


def _restricted_density(circuit: Circuit, regions: tuple[RestrictedPrior, RestrictedPrior]) -> LogDensity:
    pool = circuit.prior.sample(60_000, seed=777)
    share = np.mean(regions[0].accepts(pool) & regions[1].accepts(pool))

    def log_density(theta: np.ndarray) -> np.ndarray:
        inside = regions[0].accepts(theta) & regions[1].accepts(theta)
        return np.where(inside, circuit.prior.log_prob(theta) - np.log(share), -np.inf)

    return log_density


def targets() -> list[tuple[int, str]]:
    """Days and wells the rounds aim at."""
    return [(day, well) for day in DAYS for well in (typical_well(day), "B4", "E6")]


def _posterior(tables: list[Table], folder: Path, number: int) -> Posterior:
    if (folder / "posterior.json").exists():
        return load_posterior(folder)
    posterior = train(concat(tables), replace(AIMED, members=2), seed=number)
    posterior.save(folder)
    return posterior


def _aimed(posterior: Posterior, n: int, number: int) -> np.ndarray:
    each = -(-n // len(targets()))
    draws = [posterior(culture(*t)).sample(each, seed=1000 * number + k) for k, t in enumerate(targets())]
    return np.concatenate(draws)[np.random.default_rng(number).permutation(each * len(draws))][:n]


def _aimed_density(posterior: Posterior) -> LogDensity:
    def log_density(theta: np.ndarray) -> np.ndarray:
        each = [posterior(culture(*t)).log_prob(theta) for t in targets()]
        return np.logaddexp.reduce(each, axis=0) - np.log(len(each))

    return log_density


def weigh(tables: list[Table], densities: list[LogDensity]) -> MemoryTable:
    """All rows in one table, with their weights under the mixture of all proposals."""
    joined = concat(tables)
    theta = joined.rows.theta
    log_proposals = np.array([density(theta) for density in densities])
    weight = balance_weights(joined.prior.log_prob(theta), log_proposals, np.array([len(t) for t in tables]))
    joined.rows.weight[:] = weight
    return joined


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of every stage, to try the command")
    arguments = parser.parse_args()
    main(arguments.folder, arguments.workers, arguments.scale)
