"""Coverage and verified yield on held-out simulations of the shipped table: `python benchmarks/held_out.py`.

Rows that burst at least twice a minute are held out at random; a posterior is trained on the others. Coverage of the
central 50 % and 90 % intervals is counted over all parameters of the held-out rows; for the first of them, taken as
observations, ensembles are drawn and simulated again.
"""

import argparse
import time
from dataclasses import replace

import numpy as np

from sbi_circuits.calibration import coverage
from sbi_circuits.demo import AIMED, demo_table
from sbi_circuits.ensemble import build_ensemble
from sbi_circuits.features.states import FeatureValues, summarise
from sbi_circuits.inference import Posterior, train
from sbi_circuits.table import MemoryTable
from sbi_circuits.table_rows import Rows

HELD_OUT, OBSERVATIONS, DRAWS, BURSTS = 100, 20, 12, 2.0


def main(importance: str, workers: int, observations: int) -> None:
    table = demo_table()
    rows = table.read()
    rate = rows.values[:, table.feature_set.names.index("bursts.rate_per_minute")]
    bursting = np.flatnonzero((rows.outcome == "ok") & (rate >= BURSTS))
    chosen = np.random.default_rng(1).permutation(bursting)[:HELD_OUT]
    rest = np.setdiff1d(np.arange(len(rows)), chosen)
    began = time.perf_counter()
    config = replace(AIMED, importance=importance, members=2)
    posterior = train(MemoryTable(table.manifest, rows.take(rest)), config, seed=0)
    print(f"importance {importance}: trained on {len(rest)} rows in {time.perf_counter() - began:.0f} s")
    print(posterior.log[-1])
    held = rows.take(chosen)
    found = coverage(posterior, held.theta, held.values, held.states, draws=500, seed=0)
    few = held.take(np.arange(observations))
    print(f"{HELD_OUT} held-out rows: {found.summary()}", flush=True)
    some = coverage(posterior, few.theta, few.values, few.states, draws=500, seed=0)
    print(f"{observations} observations: {some.summary()}", flush=True)
    yields = [_yield(posterior, held, k, workers) for k in range(observations)]
    print(f"verified yield of {observations} ensembles of {DRAWS} draws: median {np.median(yields):.0%}, "
          f"mean {np.mean(yields):.0%}, each {', '.join(f'{y:.0%}' for y in yields)}")  # fmt: skip


def _yield(posterior: Posterior, rows: Rows, k: int, workers: int) -> float:
    """Share of draws verified for one held-out simulation as the observation: a single window."""
    x = summarise([FeatureValues(rows.values[k], rows.states[k])])
    x = replace(x, spread=np.zeros_like(x.values))
    ensemble = build_ensemble(posterior, x, DRAWS, max_draws=DRAWS, seed=k, workers=workers, progress=False)
    print(f"  observation {k}: yield {ensemble.yield_:.0%}, {ensemble.trust[:60]}", flush=True)
    return ensemble.yield_


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--importance", choices=("truncated", "none"), default="none")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--observations", type=int, default=OBSERVATIONS)
    arguments = parser.parse_args()
    main(arguments.importance, arguments.workers, arguments.observations)
