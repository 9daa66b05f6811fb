"""What an inference leaves behind: the ensemble as NetCDF, figures, a summary in plain text, and an HTML report."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sbi_circuits.calibration import PredictiveCheck, predictive_of
from sbi_circuits.circuit import Circuit, Record, get_circuit
from sbi_circuits.engines import Simulation
from sbi_circuits.ensemble import Ensemble, protocol_of
from sbi_circuits.errors import InferenceError
from sbi_circuits.features import DEFINED
from sbi_circuits.inference import Posterior
from sbi_circuits.plots import feature_comparison, marginals, pair, predictive_plot, raster, save, training_curve
from sbi_circuits.prior import Prior
from sbi_circuits.recording import Recording
from sbi_circuits.report_page import Picture, Verdict, page, trust_sentence
from sbi_circuits.results import save_ensemble
from sbi_circuits.seeds import stream_key
from sbi_circuits.simulation import simulate
from sbi_circuits.table import replace_file

_SHOWN_S = 60.0  # of a raster
_CELLS = 200
ROLES = {
    "report.html": "all of this on one page, for any browser, without a network",
    "ensemble.nc": "the ensemble (ArviZ InferenceData)",
    "summary.txt": "what was found, in words",
    "features.png": "recording against re-simulations, feature by feature",
    "predictive.png": "the recording among re-simulated draws of the posterior",
    "marginals.png": "every parameter against its prior",
    "pair.png": "the parameters that narrowed most, in pairs",
    "recording.png": "raster of the recording",
    "raster.png": "raster of the best member, simulated again",
    "training.png": "loss of the posterior's training",
}


@dataclass(frozen=True)
class Written:
    """Files that were written, in order."""

    paths: tuple[Path, ...]

    def lines(self) -> list[str]:
        """One line per file: where it is, and what it is."""
        return [f"{path}: {ROLES.get(path.name, path.name)}" for path in self.paths]


def write_report(
    ensemble: Ensemble,
    folder: str | Path,
    *,
    posterior: Posterior | None = None,
    recording: Recording | None = None,
    circuit: Circuit | None = None,
    engine: str = "auto",
    notes: Mapping[str, str] | None = None,
    calibration: Verdict | None = None,
) -> Written:
    """Write `ensemble.nc`, `summary.txt`, figures and `report.html` into a folder.

    Args:
        ensemble: what was found.
        folder: made if it is not there.
        posterior: whose training is drawn, where given.
        recording: the observed one, drawn as a raster where given.
        circuit: to simulate the best member with; looked up by name where None.
        engine: to simulate it with.
        notes: title -> text, put at the head of the summary.
        calibration: of the posterior, where it was judged.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shown = dict(_pictures(ensemble, posterior, recording, circuit, engine))
    paths = [save_ensemble(ensemble, folder / "ensemble.nc")]
    paths += [save(picture.figure, folder / f"{name}.png") for name, picture in shown.items()]
    replace_file(folder / "summary.txt", summary_text(ensemble, notes, calibration).encode())
    replace_file(folder / "report.html", page(ensemble, shown.values(), notes, calibration).encode())
    return Written((*paths, folder / "summary.txt", folder / "report.html"))


def _pictures(
    ensemble: Ensemble, posterior: Posterior | None, recording: Recording | None, circuit: Circuit | None, engine: str
) -> Iterator[tuple[str, Picture]]:
    """Name and figure of everything that can be shown."""
    members, prior = ensemble.members, ensemble.prior
    if recording is not None:
        yield "recording", Picture(_raster(recording, "recording"), "The recording", "At most its first minute.")
    best = simulate_best(ensemble, circuit, engine)
    if best.recording is not None:
        title = _title(ensemble)
        yield "raster", Picture(_raster(best.recording, title), f"The {title}", "Simulated once more, with a new seed.")
    caption = "Feature by feature, in the units the rule judges in."
    yield "features", Picture(feature_comparison(ensemble), "Recording and re-simulations", caption)
    predictive = _predictive(ensemble)
    if predictive is not None:
        caption = "The recording among all draws that were simulated again, verified or not."
        yield "predictive", Picture(predictive_plot(predictive), "Posterior predictive check", caption)
    yield "marginals", Picture(marginals(members, prior), "Parameters", "Verified members against the prior.")
    yield "pair", Picture(pair(members, prior), "Parameters in pairs", "Those that narrowed most.")
    if posterior is not None:
        yield "training", Picture(training_curve(posterior), "Training", "Loss of the members of the posterior.")


def _predictive(ensemble: Ensemble) -> PredictiveCheck | None:
    """The posterior predictive check, where enough draws were simulated again."""
    try:
        return predictive_of(ensemble)
    except InferenceError:
        return None


def simulate_best(ensemble: Ensemble, circuit: Circuit | None = None, engine: str = "auto") -> Simulation:
    """Simulate the configuration closest to the observation once more, keeping spikes and counts."""
    circuit = circuit or get_circuit(ensemble.provenance["circuit"])
    protocol = protocol_of(ensemble.provenance["protocol"])
    record = Record(spikes=max(_CELLS, protocol.record.spikes) if protocol.record.spikes >= 0 else -1)
    seed = stream_key(ensemble.seed, "best member") % 2**62
    theta = ensemble.theta[best_member(ensemble)]
    return next(simulate(circuit.with_prior(ensemble.prior), theta, protocol.duration, seed=seed,
                         warmup=protocol.warmup, record=record, engine=engine,
                         early_stop=protocol.early_stop))  # fmt: skip


def best_member(ensemble: Ensemble) -> int:
    """Position in `ensemble.theta` of the closest verified configuration, or of the closest one."""
    z = ensemble.judgement.z
    rough = np.where(np.isnan(z), 0.0, z**2).mean(1) + 100.0 * (~ensemble.judgement.agrees).mean(1)
    rough = rough + 1e6 * ~ensemble.verified
    return int(np.argmin(rough))


def _raster(recording: Recording, title: str) -> Figure:
    stop = min(recording.t1, recording.t0 + _SHOWN_S)
    return raster(recording, (recording.t0, stop), title=title)


def _title(ensemble: Ensemble) -> str:
    return (
        "best verified configuration" if ensemble.verified.any() else "closest configuration (not verified)"
    )


def summary_text(
    ensemble: Ensemble, notes: Mapping[str, str] | None = None, calibration: Verdict | None = None
) -> str:
    """The ensemble in words: notes, yield, rule, trust, and the parameters that were constrained most."""
    lines = [f"{title}: {text}" for title, text in (notes or {}).items()]
    lines += [f"circuit: {ensemble.provenance['circuit']}", *ensemble.summary().splitlines(), ""]
    lines += [trust_sentence(ensemble, calibration)]
    predictive = _predictive(ensemble)
    lines += [predictive.summary()] if predictive is not None else []
    states = ensemble.observation.states
    lines.append(f"observation: {int((states == DEFINED).sum())} of {len(states)} features defined, "
                 f"{ensemble.observation.n_windows} windows")  # fmt: skip
    return "\n".join([*lines, "", *_parameter_lines(ensemble)]) + "\n"


def _parameter_lines(ensemble: Ensemble) -> list[str]:
    theta, prior = ensemble.members, ensemble.prior
    if len(theta) < 2:
        return ["too few verified configurations to describe their parameters"]
    low, middle, high = np.quantile(theta, [0.05, 0.5, 0.95], axis=0)
    order = np.argsort(_narrowing(theta, prior), kind="stable")
    width = max(map(len, prior.names))
    header = "parameters of the verified configurations, narrowest against the prior first"
    rows = [
        f"{prior.names[i]:<{width}}  median {middle[i]:.4g}, 90 % within [{low[i]:.4g}, {high[i]:.4g}] "
        f"{prior.units[i].replace('1', '')}".rstrip()
        for i in order
    ]
    return [header, *rows]


def _narrowing(theta: np.ndarray, prior: Prior) -> np.ndarray:
    """(P,) width of the central 90 % as a share of that of the prior."""
    low, high = np.quantile(prior.to_unit(theta), [0.05, 0.95], axis=0)
    return (high - low) / 0.9
