"""The demonstration: from a real culture's bursts to verified circuits, in minutes on two cores.

The table it starts from was made with this project by `benchmarks/demo_table.py`; the demonstration adds a small
campaign of its own, trains on both, infers, verifies, and says how far to trust it.
"""

import time
from importlib.resources import as_file, files
from pathlib import Path

from sbi_circuits.campaign import Campaign, run_campaign
from sbi_circuits.circuit import get_circuit
from sbi_circuits.cultures import SOURCE, culture, typical_well
from sbi_circuits.ensemble import Ensemble, build_ensemble, protocol_of
from sbi_circuits.features import WindowedFeatures
from sbi_circuits.inference import Posterior, TrainingConfig, train
from sbi_circuits.report import write_report
from sbi_circuits.seeds import stream_key
from sbi_circuits.table import BaseTable, MemoryTable, Table, concat

CIRCUIT = "adex_clustered"
TABLE = "adex_clustered_channels_60s.parquet"
DAY = 20
# Importance weights would leave some tens of rows' worth of culture-like dynamics. What is wanted here is circuits that
# survive verification, so the proposals of the table are taken for the prior, and the summary says so.
# On this table zuko's splines gain 7.7 nats over the prior on validation rows, the batched mixtures 7.3.
AIMED = TrainingConfig(family="zuko", members=3, importance="none", rate=1e-3, batch=128, epochs=40, patience=12)


def demo_table() -> MemoryTable:
    """Simulations of `adex_clustered`, 60 s each, network bursts in the view of 16 channels."""
    with as_file(files("sbi_circuits.data").joinpath(TABLE)) as path:
        return Table.load_file(path)


def demo_observation() -> WindowedFeatures:
    """Day 20 of the most typical culture of the plate."""
    return culture(DAY, typical_well(DAY))


def demo(
    out: str | Path = "demo_output",
    workers: int = 2,
    *,
    own: int = 300,
    n: int = 40,
    max_draws: int = 160,
    seed: int = 0,
    table: BaseTable | None = None,
    config: TrainingConfig | None = None,
) -> Ensemble:
    """Infer the circuit behind a real rat cortical culture; everything is written into a folder.

    Args:
        out: folder for the campaign, the posterior, `ensemble.nc`, figures and `summary.txt`.
        workers: processes to simulate in.
        own: simulations the demonstration adds to the shipped table.
        n, max_draws: verified configurations wanted, and draws after which to stop.
        seed: of everything.
        table: to start from; the shipped one where None.
        config: of the training; `AIMED` where None.
    """
    began, out = time.perf_counter(), Path(out)
    x, shipped = demo_observation(), demo_table() if table is None else table
    print(f"observation: {SOURCE}, day {DAY}, well {typical_well(DAY)}, {x.n_windows} windows of 60 s")
    print(f"table: {_counts(shipped)}")
    both = concat([shipped, _own_campaign(shipped, out, own, workers, seed)])
    posterior = train(both, config or AIMED, seed=seed)
    posterior.save(out / "posterior")
    ensemble = build_ensemble(posterior, x, n, max_draws=max_draws, seed=seed, workers=workers,
                              folder=out / "verification")  # fmt: skip
    notes = {
        "observation": f"{SOURCE}, day {DAY}, well {typical_well(DAY)}",
        "table": f"{_counts(both)}, {own} of them added by this run",
        "honesty": _honesty(posterior, ensemble),
        "wall time": f"{(time.perf_counter() - began) / 60:.1f} minutes",
    }
    written = write_report(ensemble, out, posterior=posterior, notes=notes)
    print("\n".join([ensemble.summary(), notes["honesty"], *(f"wrote {line}" for line in written.lines())]))
    return ensemble


def _own_campaign(shipped: BaseTable, out: Path, n: int, workers: int, seed: int) -> Table:
    """Simulations of the prior, as the shipped table's own first rows: they need no weights."""
    campaign = Campaign(
        circuit=get_circuit(CIRCUIT).with_prior(shipped.prior),
        n=n,
        feature_set=shipped.feature_set,
        protocol=protocol_of(shipped.manifest.protocol),
        # The shipped rows have seeds of their own; equal seeds would repeat some of them.
        seed=stream_key(seed, "demo") % 2**62,
        unit=8,
    )
    return run_campaign(campaign, out / f"campaign-{campaign.digest[:8]}", workers=workers)


def _counts(table: BaseTable) -> str:
    counts = table.counts()
    total = sum(counts.values())
    return f"{total} simulations ({', '.join(f'{v} {k}' for k, v in sorted(counts.items(), key=lambda i: -i[1]))})"


def _honesty(posterior: Posterior, ensemble: Ensemble) -> str:
    """What so small a table can and cannot say, in figures of this very run."""
    rows = posterior.provenance["outcomes"].get("ok", 0)
    gain = posterior.provenance.get("validation", {}).get("validation_gain")
    learned = f"; held-out simulations gain {gain:.1f} nats over the prior" if gain is not None else ""
    return (
        f"how good is this: {len(posterior.prior)} parameters from {rows} simulations is little{learned}; "
        f"{ensemble.yield_:.0%} of the draws reproduced the culture when simulated again, the others did not. "
        "Most of the table was drawn from proposals aimed at cultures, which stand in for the prior here (train with "
        "importance='truncated' for the published one): use the verified members, and read the marginals as where "
        "such circuits were found, not as the last word."
    )
