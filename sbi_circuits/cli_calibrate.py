"""`calibrate` and `compare`: whether a posterior, or a choice between circuits, can be believed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from sbi_circuits.calibration import (
    Calibration,
    HeldOut,
    LocalTest,
    ReachTest,
    Recalibrated,
    calibrate,
    load_correction,
    recalibrate,
    require_unseen,
    save_correction,
    validation_rows,
)
from sbi_circuits.calibration.correction import FILE
from sbi_circuits.comparison import (
    CircuitClassifier,
    CircuitProbabilities,
    compare_circuits,
    load_classifier,
    save_classifier,
)
from sbi_circuits.errors import InferenceError
from sbi_circuits.features import FeatureSet, WindowedFeatures
from sbi_circuits.inference import Posterior, load_posterior
from sbi_circuits.observation_file import read_observation
from sbi_circuits.plots import (
    coverage_plot,
    local_plot,
    pattern_plot,
    probability_plot,
    rank_plot,
    reach_plot,
    reliability_plot,
    save,
    tarp_plot,
)
from sbi_circuits.readers import read_recording
from sbi_circuits.table import BaseTable, Table, replace_file

_AFTER_TRAINING = {"rows": 300, "draws": 200}
_LEAST = 50


def open_table(path: Path) -> BaseTable:
    """The table in a folder, or in an exported file."""
    return Table.open(path) if path.is_dir() else Table.load_file(path)


def calibrate_posterior(
    folder: Path, table: Path, recording: Path | None, group: str | None, features: Path | None,
    subsets: Sequence[str], rows: int, draws: int, all_rows: bool, mend: bool, seed: int, out: Path,
) -> None:  # fmt: skip
    """Judge a posterior by a table it was not trained on, and at one observation where there is one."""
    posterior, simulations = load_posterior(folder), open_table(table)
    require_unseen(posterior, simulations)
    held = HeldOut.from_table(simulations, rows, seed, "all" if all_rows else "prior")
    parts = {text: [name.strip() for name in text.split(",") if name.strip()] for text in subsets}
    found = calibrate(posterior, held, draws=draws, subsets=parts, seed=seed)
    print(found.summary())
    _figures(found, out)
    x = _observed(posterior, recording, group, features)
    if x is not None:
        _at_observation(posterior, held, x, draws, seed, out)
    if mend:
        corrected = recalibrate(posterior, held, draws=draws, seed=seed)
        print(corrected.correction.summary())
        print(f"wrote {save_correction(corrected.correction, folder)}: infer uses it from now on; remove it to undo")
    print(f"wrote the figures and calibration.json to {out}")


def _figures(found: Calibration, out: Path) -> None:
    found.save(out / "calibration.json")
    save(rank_plot(found), out / "ranks.png")
    save(coverage_plot(found.coverage), out / "coverage.png")
    save(tarp_plot(found.tarp), out / "tarp.png")
    if len(found.patterns) > 1 or found.subsets:
        save(pattern_plot(found), out / "patterns.png")
    if found.local is not None:
        save(local_plot(found.local), out / "local.png")


def _observed(
    posterior: Posterior, recording: Path | None, group: str | None, features: Path | None
) -> WindowedFeatures | None:
    if recording is None and features is None:
        return None
    duration = float(posterior.provenance["protocol"]["duration"])
    wanted = str(posterior.provenance["feature_set_digest"])
    return _measured(recording, group, features, posterior.provenance["feature_set"], wanted, duration)


def _measured(
    recording: Path | None, group: str | None, features: Path | None, content: Any, wanted: str, duration: float
) -> WindowedFeatures:
    """The features of a recording, or those of an observation file if they were measured alike."""
    if (recording is None) == (features is None):
        raise InferenceError("give one observation: a recording, or --features")
    if recording is not None:
        return FeatureSet.from_dict(content).measure_windows(read_recording(recording, group=group), duration)
    assert features is not None
    seen = read_observation(features)
    if seen.feature_set.digest != wanted or abs(seen.window_s - duration) > 1e-6 * duration:
        raise InferenceError(f"{features.name} was measured with another feature set, or in windows of other length "
                             f"than the simulations' {duration:g} s; give the recording")  # fmt: skip
    return seen.features


def _at_observation(
    posterior: Posterior, held: HeldOut, x: WindowedFeatures, draws: int, seed: int, out: Path
) -> None:
    reach, local = ReachTest.fit(held, seed), LocalTest.fit(posterior, held, seed=seed)
    print(f"{reach.check(x).summary()}\n{local.check(x, draws).summary()}")
    save(reach_plot(reach, x), out / "reach.png")
    save(local_plot(local.check(x, draws)), out / "local_observation.png")


def calibrate_trained(posterior: Posterior, table: BaseTable, out: Path, seed: int) -> None:
    """After training: what the rows kept from it say, in a few lines, with a figure."""
    held = validation_rows(posterior, table, _AFTER_TRAINING["rows"])
    if len(held) < _LEAST:
        print(f"calibration: {len(held)} rows were kept from training, too few to judge it; see sbi-circuits calibrate")
        return
    found = calibrate(posterior, held, draws=_AFTER_TRAINING["draws"], local=False, seed=seed)
    print("\n".join(found.lines()[:3]))
    found.save(out / "calibration.json")
    save(rank_plot(found), out / "ranks.png")


def with_correction(posterior: Posterior, folder: Path) -> Posterior:
    """A posterior with the recalibration that lies beside it, if there is one; says so."""
    if not (folder / FILE).exists():
        return posterior
    print(f"the recalibration in {folder / FILE} is used")
    # It offers everything that an inference asks of a posterior.
    return cast(Posterior, Recalibrated(posterior, load_correction(folder)))


def compare(
    recording: Path | None, group: str | None, features: Path | None, tables: Sequence[Path], classifier_: Path | None,
    seed: int, out: Path,
) -> None:  # fmt: skip
    """Train a classifier over circuits, or take one from before, and ask it about one observation."""
    if (classifier_ is None) == (not tables):
        raise InferenceError("give --table, two or more, or the --classifier that an earlier comparison wrote")
    known = load_classifier(classifier_) if classifier_ is not None else None
    found = [open_table(path) for path in tables]
    # The observation is read first: training takes minutes.
    if known is not None:
        content, wanted, protocol = known.feature_set, known.feature_set_digest, known.protocol
    else:
        content, wanted, protocol = found[0].manifest.features, found[0].feature_set.digest, found[0].manifest.protocol
    duration = float(protocol["duration"])
    x = _measured(recording, group, features, content, wanted, duration)
    classifier = compare_circuits(found, seed=seed) if known is None else known
    if known is None:
        save_classifier(classifier, out / "classifier")
    print(classifier.reliability.summary())
    answer = classifier((x.values, x.states))
    print(answer.summary())
    if x.n_windows > 1:
        windows = [classifier((v, s)).best for v, s in zip(x.window_values, x.window_states, strict=True)]
        agree = windows.count(answer.best)
        print(f"{agree} of {len(windows)} windows of {duration:g} s choose {answer.best} on their own")
    _write_comparison(classifier, answer, out)


def _write_comparison(
    classifier: CircuitClassifier, answer: CircuitProbabilities, out: Path
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    save(reliability_plot(classifier.reliability), out / "reliability.png")
    save(probability_plot(answer), out / "circuits.png")
    tested = classifier.reliability
    content = {
        "probabilities": dict(zip(answer.names, answer.probabilities.tolist(), strict=True)),
        "spread": dict(zip(answer.names, answer.spread.tolist(), strict=True)),
        "reach_p": {name: reach.p_value for name, reach in answer.reach.items()},
        "tables": dict(classifier.tables),
        "accuracy": tested.accuracy, "log_loss": tested.log_loss, "calibration_error": tested.error,
        "calibration_p": tested.p_value, "held_out": tested.rows,
    }  # fmt: skip
    replace_file(out / "comparison.json", (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    print(f"wrote comparison.json, circuits.png and reliability.png to {out}")
