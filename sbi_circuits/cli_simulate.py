"""`simulate`: fill a table, or run the default configuration once."""

from pathlib import Path

from sbi_circuits.campaign import Campaign, plan_campaign, run_campaign
from sbi_circuits.campaign.progress import tally
from sbi_circuits.circuit import Record, get_circuit
from sbi_circuits.cli_features import feature_set
from sbi_circuits.engines import Protocol
from sbi_circuits.errors import SbiCircuitsError
from sbi_circuits.plots import raster, save, signal_plot
from sbi_circuits.prior import Prior
from sbi_circuits.readers import write_recording
from sbi_circuits.simulation import simulate as run_simulations


def simulate(
    name: str, out: Path, n: int, duration: float, seed: int, warmup: float, workers: int, engine: str,
    features: str, view: str, prior: Path | None, keep_recordings: int, spikes: int, unit: int,
    time_limit: float | None, plan: bool,
) -> None:  # fmt: skip
    """Run or resume a campaign, or plan it, and say what the table holds."""
    campaign = Campaign(
        circuit=get_circuit(name),
        n=n,
        feature_set=feature_set(features, view),
        protocol=Protocol(duration, warmup, _record(name, spikes)),
        seed=seed,
        engine=engine,
        unit=unit,
        prior=None if prior is None else Prior.from_toml(prior),
        keep_recordings=keep_recordings,
    )
    if plan:
        plan_campaign(campaign, out, time_limit=time_limit)
        print(f"planned {n} simulations of {name} in {out}; run them with `sbi-circuits campaign run {out}`")
        return
    table = run_campaign(campaign, out, workers=workers, time_limit=time_limit)
    counts = table.counts()
    print(f"wrote {out}: a table of {sum(counts.values())} simulations of {name} ({tally(counts)})")


def simulate_default(
    name: str, out: Path, duration: float, warmup: float, seed: int, engine: str, spikes: int
) -> None:
    """Simulate a circuit's default configuration; write its recording and a raster, or its signals.

    Raises:
        SbiCircuitsError: a simulation that ended early or failed, with the reason.
    """
    circuit = get_circuit(name)
    runs = run_simulations(circuit, circuit.default_theta(), duration, seed=seed, warmup=warmup,
                           record=_record(name, spikes), engine=engine)  # fmt: skip
    simulation = next(runs)
    if simulation.recording is None:
        raise SbiCircuitsError(
            f"the simulation ended {simulation.outcome.status}: {simulation.outcome.reason}"
        )
    out.mkdir(parents=True, exist_ok=True)
    write_recording(out / "recording.npz", simulation.recording)
    draw, figure = (raster, out / "raster.png") if circuit.spikes else (signal_plot, out / "signals.png")
    save(draw(simulation.recording, title=f"{name}, default configuration"), figure)
    print(f"wrote {out / 'recording.npz'} and {figure} ({simulation.wall_s:.1f} s of computing)")


def _record(name: str, spikes: int) -> Record:
    """All signals of a circuit that never spikes."""
    circuit = get_circuit(name)
    return Record(spikes=spikes, counts=True, moments=True) if circuit.spikes else circuit.default_record()
