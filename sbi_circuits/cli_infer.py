"""`train`, `infer` and `verify`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sbi_circuits.aimed_round import aimed_rounds
from sbi_circuits.cli_calibrate import calibrate_trained, open_table, with_correction
from sbi_circuits.cli_features import note_groups
from sbi_circuits.cultures import SOURCE, WINDOW, culture_features, typical_well
from sbi_circuits.demo import DAY, demo_observation, demo_table
from sbi_circuits.digests import digest
from sbi_circuits.ensemble import Ensemble, build_ensemble, observe, verify
from sbi_circuits.errors import InferenceError, UnknownNameError
from sbi_circuits.features import WindowedFeatures
from sbi_circuits.inference import Posterior, TrainingConfig, load_card, load_posterior, load_simulations, train
from sbi_circuits.inference.shipped import posterior_folder, shipped_posteriors
from sbi_circuits.nearby import mismatches, nearby_ensemble
from sbi_circuits.observation_file import ObservedFeatures, read_observation
from sbi_circuits.plots import save, training_curve
from sbi_circuits.readers import read_recording
from sbi_circuits.recording import Recording
from sbi_circuits.recording_concerns import concerns
from sbi_circuits.report import write_report
from sbi_circuits.report_page import Verdict, trust_sentence
from sbi_circuits.results import load_ensemble, save_ensemble
from sbi_circuits.table import BaseTable, concat

# What infers where nothing else is named, by what was recorded; the first where there is none of a kind.
SHIPPED = {"channel": "adex_clustered", "cell": "adex_clustered_cells"}


DRAWS = ("auto", "posterior", "nearby")  # where configurations to be verified come from
_LOW_YIELD = 0.25


@dataclass(frozen=True)
class Wanted:
    """How many verified configurations, and how to get them; see `build_ensemble`."""

    n: int
    max_draws: int | None
    seed: int
    workers: int
    engine: str
    refine: int = 0  # simulations of an aimed round
    rounds: int = 1  # most of them
    draw: str = "auto"  # one of DRAWS


@dataclass(frozen=True, eq=False)
class Seen:
    """What is to be explained: its features, the recording where there is one, a line about it, what it cannot tell."""

    features: WindowedFeatures
    recording: Recording | None
    text: str
    concerns: tuple[str, ...] = ()


def train_posterior(tables: Sequence[Path], out: Path, family: str, seed: int) -> None:
    """Train on one or several tables and write the posterior, its log and the curve of its loss."""
    _train(_together(tables), TrainingConfig(family=family), seed, out)


def _together(paths: Sequence[Path]) -> BaseTable:
    found = [open_table(path) for path in paths]
    return found[0] if len(found) == 1 else concat(found)


def _train(table: BaseTable, config: TrainingConfig, seed: int, out: Path) -> Posterior:
    """Train, save, and say what the rows kept from training make of it."""
    posterior = train(table, config, seed=seed)
    _save_posterior(posterior, out)
    calibrate_trained(posterior, table, out, seed)
    return posterior


def _save_posterior(posterior: Posterior, out: Path) -> None:
    posterior.save(out)
    save(training_curve(posterior), out / "training.png")
    for line in posterior.log[-2:]:
        if not line.startswith("member"):
            print(line)
    print(f"wrote the posterior to {out} (posterior.safetensors, posterior.json, training.log, training.png)")


def infer(
    recording: Path | None, group: str | None, features: Path | None, posterior: Path | None,
    tables: tuple[Path, ...], family: str, wanted: Wanted, out: Path,
) -> None:  # fmt: skip
    """From an observation to a verified ensemble; everything is written into `out`."""
    _one_of("--recording or --features", recording, features)
    if wanted.draw not in DRAWS:
        raise UnknownNameError("source of draws", wanted.draw, DRAWS)
    if wanted.draw != "nearby":  # there the posterior comes with the table that it was trained on
        _one_of("--posterior or --table", posterior, tables or None)
    trained = None if posterior is None else posterior_folder(posterior)
    for path in (recording, features, trained, *tables):
        # Training takes minutes: what is missing is said before.
        if path is not None and not path.exists():
            raise InferenceError(f"there is no {path}")
    read = None if recording is None else read_recording(recording, group=group)
    if recording is not None and read is not None and group is None:
        note_groups(read, recording)
    source = _posterior(trained, tables, family, wanted.seed, out, "channel" if read is None else read.unit_kind)
    seen = _observation(source, f"{recording.name if recording else ''} {group or ''}".strip(), read, features)
    print(f"observation: {seen.text}\n{source.check(seen.features).summary()}")
    near = _around(source, tables, wanted.draw)
    ensemble, notes = _ensemble(source, seen, wanted, out, near), {"observation": seen.text}
    if seen.concerns:
        notes["what cannot be concluded"] = "; ".join(seen.concerns)
    if wanted.refine:
        source, ensemble, notes["aimed round"] = _refined(source, ensemble, seen, tables, wanted, out)
    written = write_report(
        ensemble, out, posterior=source, recording=seen.recording, engine=wanted.engine, notes=notes
    )
    print("\n".join([ensemble.summary(), *(f"wrote {line}" for line in written.lines())]))
    if ensemble.yield_ < _LOW_YIELD and not wanted.refine:
        print("the yield is low: the same line with --refine simulates where this posterior looks, and draws again")


def _around(source: Posterior, tables: tuple[Path, ...], draw: str) -> BaseTable | None:
    """The simulations that configurations are drawn around; None where they are drawn from the posterior.

    The posteriors that ship know the circuit vaguely, and their tables ship beside them: there "auto" means "nearby".
    """
    if draw == "posterior" or (draw == "auto" and tables):
        return None
    if tables:
        return _together(tables)
    for ships in (demo_table(), *filter(None, map(load_simulations, shipped_posteriors()))):
        if not mismatches(source, ships):
            return ships
    if draw == "auto":
        return None
    raise InferenceError("to draw around simulations their table is needed beside this posterior: give it by --table")


def _ensemble(
    source: Posterior, seen: Seen, wanted: Wanted, out: Path, near: BaseTable | None = None
) -> Ensemble:
    options: dict[str, Any] = {
        "max_draws": wanted.max_draws, "seed": wanted.seed, "workers": wanted.workers, "engine": wanted.engine,
        "folder": _folder(out, source, seen, wanted, "" if near is None else near.digest),
    }  # fmt: skip
    if near is None:
        return build_ensemble(source, seen.features, wanted.n, **options)
    return nearby_ensemble(source, seen.features, near, wanted.n, **options)


def _refined(
    source: Posterior, first: Ensemble, seen: Seen, tables: tuple[Path, ...], wanted: Wanted, out: Path
) -> tuple[Posterior, Ensemble, str]:
    """Aimed rounds, and the ensemble of the last one's posterior; the first one where that has the higher yield."""
    found = aimed_rounds(
        source, seen.features, wanted.refine, wanted.rounds, table=_together(tables) if tables else None,
        seed=wanted.seed, workers=wanted.workers, engine=wanted.engine, folder=out / "aimed_round",
    )  # fmt: skip
    found.posterior.save(out / "refined")
    again = _ensemble(found.posterior, seen, replace(wanted, seed=wanted.seed + 1), out)
    better = again.yield_ > first.yield_
    text = (f"{found.summary()}\nthe yield went from {first.yield_:.0%} to {again.yield_:.0%}"
            f"{'' if better else ', so the draws before it are reported'}")  # fmt: skip
    print(text)
    told = text.replace("\n", "; ")
    return (found.posterior, again, told) if better else (source, first, told)


def _one_of(names: str, *given: object) -> None:
    if sum(value is not None for value in given) > 1:
        raise InferenceError(f"give {names}, not both")


def _posterior(
    folder: Path | None, tables: tuple[Path, ...], family: str, seed: int, out: Path, kind: str
) -> Posterior:
    if folder is not None:
        return with_correction(load_posterior(folder), folder)
    if tables:
        return _train(_together(tables), TrainingConfig(family=family), seed, out / "posterior")
    name = SHIPPED[kind] if SHIPPED[kind] in shipped_posteriors() else next(iter(SHIPPED.values()))
    print(f"no posterior or table given: using the one that ships\n{load_card(name).summary()}")
    folder = posterior_folder(name)
    return with_correction(load_posterior(folder), folder)


def _observation(posterior: Posterior, text: str, read: Recording | None, features: Path | None) -> Seen:
    duration = float(posterior.provenance["protocol"]["duration"])
    if read is not None:
        found = concerns(read, duration)
        for line in found:
            print(f"note: {line}")
        return Seen(observe(posterior, read), read, text, found)
    observed = _demonstration() if features is None else read_observation(features)
    about = " ".join(filter(None, (observed.recording, observed.group))) or "an observation file"
    if observed.feature_set.digest != posterior.provenance["feature_set_digest"]:
        raise InferenceError(f"{about} has other features than the posterior; give the recording, or "
                             "measure it with the feature set of the table")  # fmt: skip
    if abs(observed.window_s - duration) > 1e-6 * duration:
        raise InferenceError(f"{about} has windows of {observed.window_s:g} s, the simulations last "
                             f"{duration:g} s; measure again with --window {duration:g}")  # fmt: skip
    return Seen(observed.features, None, about)


def _demonstration() -> ObservedFeatures:
    name = f"{SOURCE}, day {DAY}, well"
    return ObservedFeatures(culture_features(), demo_observation(), WINDOW, SOURCE, name, typical_well(DAY))


def _folder(out: Path, posterior: Posterior, seen: Seen, wanted: Wanted, near: str) -> Path:
    """Where re-simulations are kept, so that the same inference goes on after an interruption."""
    values = [seen.features.window_values.tolist(), seen.features.window_states.tolist()]
    known = [dict(posterior.provenance), list(posterior.log), values, wanted.n, wanted.max_draws, wanted.seed]
    key = digest([*known, near] if near else known)
    return out / "resimulations" / key[:12]


def report_on(
    path: Path, recording: Path | None, group: str | None, posterior: Path | None, calibration: Path | None, out: Path,
    engine: str,
) -> None:  # fmt: skip
    """Write the report of an ensemble into a folder."""
    ensemble = load_ensemble(path)
    trained = None if posterior is None else load_posterior(posterior)
    shown = None if recording is None else read_recording(recording, group=group)
    judged = None if calibration is None else Verdict.load(calibration)
    written = write_report(ensemble, out, posterior=trained, recording=shown, engine=engine, calibration=judged)
    print("\n".join([trust_sentence(ensemble, judged), *(f"wrote {line}" for line in written.lines())]))


def verify_again(path: Path, seed: int, out: Path | None, all_draws: bool, workers: int, engine: str) -> None:
    """Simulate an ensemble's members with new seeds and print how many agree again."""
    ensemble = load_ensemble(path)
    again = verify(ensemble, members_only=not all_draws, seed=seed, workers=workers, engine=engine)
    print(_again(again, all_draws))
    print(again.summary())
    if out is not None:
        print(f"wrote {save_ensemble(again, out)}")


def _again(again: Ensemble, all_draws: bool) -> str:
    n, m = int(again.verified.sum()), len(again.theta)
    what = "drawn configurations" if all_draws else "members"
    return f"{n} of {m} {what} agree with the observation again, with seed {again.seed} ({again.yield_:.0%})"
