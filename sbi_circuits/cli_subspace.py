"""`subspace`: which directions leave the dynamics unchanged, proved by simulation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sbi_circuits.cli_calibrate import open_table
from sbi_circuits.cli_features import feature_set
from sbi_circuits.ensemble import Ensemble, protocol_of
from sbi_circuits.errors import InferenceError
from sbi_circuits.features import UNOBSERVED
from sbi_circuits.inference import Posterior, TrainingData, load_posterior
from sbi_circuits.plots import pair, save
from sbi_circuits.plots.subspace import (
    between_plot,
    direction_plot,
    effect_plot,
    path_pairs,
    path_rasters,
    spectrum_plot,
    strip_plot,
)
from sbi_circuits.results import load_ensemble, save_ensemble
from sbi_circuits.simulation import simulate
from sbi_circuits.subspace import (
    Growth,
    Perturbation,
    Plan,
    Runner,
    SubspaceReport,
    analyse,
    circuit_of,
    compare_subspaces,
    grow,
    members_of,
    predict,
    rank_features,
    require_match,
    save_subspace,
)

SUBSPACE, ENSEMBLE, SUMMARY = "subspace.nc", "ensemble.nc", "summary.txt"
_STIFF = 3


@dataclass(frozen=True)
class Asked:
    """What the command line asks for beside the plan; see the options of `subspace`."""

    n: int
    most: int
    fix: tuple[str, ...]
    bound: tuple[str, ...]
    perturb: tuple[str, ...]
    measure: str
    compare: tuple[Path, ...]
    table: Path | None = None


def subspace(ensemble: Path, posterior: Path, out: Path, plan: Plan, runner: Runner, asked: Asked) -> None:
    """Analyse an ensemble, write `subspace.nc`, `summary.txt` and figures, and print the summary."""
    source, found = load_posterior(posterior), load_ensemble(ensemble)
    require_match(source, found)
    perturbations = [Perturbation.read(text) for text in asked.perturb]
    others = {path.parent.name or path.stem: load_ensemble(path) for path in asked.compare}
    if len(others) < len(asked.compare):
        raise InferenceError("ensembles to compare with need folders of different names")
    plan = replace(plan, conditions=_conditions(asked.fix, asked.bound))
    known = None if asked.table is None else TrainingData.from_table(open_table(asked.table))
    if asked.n > found.verified.sum():
        found = _grown(source, found, asked, runner, out, known)
    report = analyse(source, found, plan, runner, known)
    report = _extended(source, report, others, perturbations, asked.measure, ensemble, runner, plan.seed)
    written = [save_subspace(report, out / SUBSPACE), *write_figures(report, out, runner)]
    (out / SUMMARY).write_text(report.summary() + "\n", encoding="utf-8")
    print("\n".join([report.summary(), *(f"wrote {path}" for path in [*written, out / SUMMARY])]))


def _conditions(fix: Sequence[str], bound: Sequence[str]) -> tuple[tuple[dict[str, float], dict[str, tuple]], ...]:
    """One condition of all that is fixed and bounded; none where there is nothing."""
    fixed = {name: _numbers(text, "name=value", 1)[0] for name, text in map(_pair, fix)}
    bounded = {name: tuple(_numbers(text, "name=low:high", 2)) for name, text in map(_pair, bound)}
    return ((fixed, bounded),) if fixed or bounded else ()


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name.strip(), value


def _numbers(text: str, form: str, count: int) -> list[float]:
    try:
        found = [float(part) for part in text.split(":")]
    except ValueError:
        found = []
    if len(found) != count:
        raise InferenceError(f"cannot read {text!r}; write {form}, numbers in the parameter's unit")
    return found


def _grown(
    source: Posterior, found: Ensemble, asked: Asked, runner: Runner, out: Path, known: TrainingData | None
) -> Ensemble:
    def report(growth: Growth, so_far: Ensemble) -> None:
        save_ensemble(so_far, out / ENSEMBLE)
        print(f"grown: {growth.verified} of {growth.tried} verified at step {growth.step:.2f}, {growth.screened} given "
              f"up after one seed; {int(so_far.verified.sum())} in all", flush=True)  # fmt: skip

    larger, _ = grow(source, found, asked.n, runner, most=asked.most, known=known, report=report)
    print(f"wrote {save_ensemble(larger, out / ENSEMBLE)}")
    return larger


def _extended(
    source: Posterior, report: SubspaceReport, others: dict[str, Ensemble], perturbations: Sequence[Perturbation],
    measure: str, path: Path, runner: Runner, seed: int,
) -> SubspaceReport:  # fmt: skip
    """With the comparison, the effects and the features that were asked for."""
    if others:
        for other in others.values():
            require_match(source, other)
        seen = {path.parent.name or path.stem: report.ensemble.observation}
        seen |= {name: other.observation for name, other in others.items()}
        measured = report.ensemble.observation.states != UNOBSERVED
        repeats, stiff = members_of(report.ensemble).only(measured), min(_STIFF, max(len(source.prior) - 1, 1))
        report = replace(report, comparison=compare_subspaces(source, seen, repeats, stiff=stiff, seed=seed))
    if perturbations:
        report = replace(report, effects=predict(report.ensemble, perturbations, runner, seed=seed))
    if measure:
        wanted = feature_set(measure, "cells")
        report = replace(report, features=rank_features(report.ensemble, wanted, runner, seed=seed))
    return report


def write_figures(report: SubspaceReport, out: Path, runner: Runner) -> list[Path]:
    """Every figure the report has content for; returns their paths."""
    prior, members = report.ensemble.prior, report.ensemble.members
    figures = {
        "spectrum": spectrum_plot(report.local, report.average, prior),
        "directions": direction_plot(report.directions),
    }
    if report.paths is not None and report.paths_proof is not None:
        figures["paths"] = strip_plot(report.paths, report.paths_proof, controls=report.controls)
        figures["pairs"] = path_pairs(members, report.paths, prior)
        recordings = _recordings(report, runner)
        if any(r is not None for r in recordings):
            figures["rasters"] = path_rasters(recordings)
    if report.walks is not None and report.walks_proof is not None:
        figures["walks"] = strip_plot(report.walks, report.walks_proof, "sloppy walks")
    for k, (conditional, _) in enumerate(report.conditionals):
        moved = np.sort(np.argsort(-np.abs(conditional.shift))[:4])
        figures[f"conditional_{k}"] = pair(conditional.theta, prior, [prior.names[p] for p in moved])
    if report.comparison is not None:
        figures["comparison"] = between_plot(report.comparison)
    if report.effects:
        figures["perturbations"] = effect_plot(report.effects)
    return [save(figure, out / f"{name}.png") for name, figure in figures.items()]


def _recordings(report: SubspaceReport, runner: Runner) -> list:
    """One simulation of every point of the path whose feature changes are the median ones."""
    assert report.paths is not None and report.paths_proof is not None
    ensemble = report.ensemble
    size = np.where(np.isfinite(report.paths_proof.size), report.paths_proof.size, np.inf)
    typical = int(np.argsort(np.median(size, axis=1))[len(size) // 2])
    circuit = circuit_of(ensemble.provenance, ensemble.prior, runner.circuit)
    protocol = protocol_of(ensemble.provenance["protocol"])
    runs = simulate(circuit, report.paths.theta[typical], protocol.duration, seed=runner.seed, warmup=protocol.warmup,
                    record=protocol.record, engine=runner.engine)  # fmt: skip
    return [run.recording for run in runs]
