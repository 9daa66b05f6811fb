"""The demonstration: from a real culture's bursts to verified circuits, in minutes on two cores.

It draws around the shipped simulations that lie nearest to the culture, simulates what it drew until a hundred
configurations are verified or the time is up, and says how far to trust it by the posterior that ships with them.
"""

import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from sbi_circuits.cultures import SOURCE, WINDOW, culture, culture_features, typical_well
from sbi_circuits.ensemble import Ensemble, build_ensemble
from sbi_circuits.errors import InferenceError
from sbi_circuits.features import WindowedFeatures
from sbi_circuits.inference import Posterior, TrainingConfig, load_posterior
from sbi_circuits.inference.shipped import Card, load_card, shipped_posteriors
from sbi_circuits.nearby import nearby_ensemble
from sbi_circuits.report import write_report
from sbi_circuits.report_page import Verdict
from sbi_circuits.table import MemoryTable, Table

TABLE = "adex_clustered_channels_60s.parquet"
DAY = 20
MINUTES = 7.5  # for simulating again: with installation and figures, less than ten on two cores
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


def demo_posterior() -> tuple[Posterior, Card]:
    """The shipped posterior that was trained on features like the demonstration's, and its card.

    Raises:
        InferenceError: none of those that ship was.
    """
    wanted = (culture_features().digest, WINDOW)
    for name in shipped_posteriors():
        posterior = load_posterior(name)
        known = posterior.provenance
        if (known["feature_set_digest"], float(known["protocol"]["duration"])) == wanted:
            return posterior, load_card(name)
    raise InferenceError(f"no posterior that ships answers for bursts in windows of {WINDOW:g} s; "
                         f"there are: {', '.join(shipped_posteriors()) or 'none'}")  # fmt: skip


def demo(
    out: str | Path = "demo_output",
    workers: int = 2,
    *,
    n: int = 100,
    max_draws: int = 2000,
    minutes: float = MINUTES,
    seed: int = 0,
    engine: str = "auto",
    posterior: Posterior | None = None,
    observation: WindowedFeatures | None = None,
) -> Ensemble:
    """Infer the circuit behind a real rat cortical culture; everything is written into a folder.

    Args:
        out: folder for the re-simulations, `report.html`, `ensemble.nc`, figures and `summary.txt`.
        workers: processes to simulate in.
        n, max_draws, minutes: verified configurations wanted; draws, and time, after which to stop short of them.
        seed, engine: of the draws and simulations.
        posterior, observation: in place of the shipped one and of the culture.
    """
    began, out = time.perf_counter(), Path(out)
    x = demo_observation() if observation is None else observation
    about = f"{SOURCE}, day {DAY}, well {typical_well(DAY)}" if observation is None else "given"
    print(f"observation: {about}, {x.n_windows} windows of {WINDOW:.0f} s")
    trained, card = (posterior, None) if posterior is not None else demo_posterior()
    if card is not None:
        print(card.summary())
    options: dict[str, Any] = {"max_draws": max_draws, "seconds": 60.0 * minutes, "seed": seed, "workers": workers,
                               "engine": engine, "folder": out / "verification"}  # fmt: skip
    if posterior is None:
        ensemble = nearby_ensemble(trained, x, demo_table(), n, **options)
    else:
        ensemble = build_ensemble(trained, x, n, **options)
    notes = {"observation": about, "reached": _reached(ensemble, n), "how good is this": _honesty(trained, ensemble)}
    notes["wall time"] = f"{(time.perf_counter() - began) / 60:.1f} minutes"
    verdict = None if card is None else Verdict.of_card(card)
    written = write_report(ensemble, out, posterior=trained, engine=engine, notes=notes, calibration=verdict)
    print("\n".join([ensemble.summary(), *(f"{title}: {text}" for title, text in list(notes.items())[1:]),
                      *(f"wrote {line}" for line in written.lines())]))  # fmt: skip
    return ensemble


def _reached(ensemble: Ensemble, n: int) -> str:
    """Whether there are as many as were wanted, and what kept others out."""
    found = int(ensemble.verified.sum())
    if found >= n:
        return f"{found} verified configurations, {n} were wanted"
    limits = ", ".join(f"{name} ({share:.0%} of the draws)" for name, share in list(ensemble.rejections().items())[:4])
    return f"{found} verified configurations of {n} wanted when the time or the draws were used up; limited by {limits}"


def _honesty(posterior: Posterior, ensemble: Ensemble) -> str:
    """What this can and cannot say, in figures of this very run."""
    rows = posterior.provenance["outcomes"].get("ok", 0)
    gain = posterior.provenance.get("validation", {}).get("validation_gain")
    learned = f"; held-out simulations gain {gain:.1f} nats over the prior" if gain is not None else ""
    return (
        f"{len(posterior.prior)} parameters from {rows} simulations is little{learned}; {ensemble.yield_:.0%} of the "
        "draws reproduced the culture when simulated again, the others did not. Most of the simulations were drawn "
        "from proposals aimed at cultures, which stand in for the prior here: use the verified members, and read the "
        "marginals as where such circuits were found, not as the last word."
    )
