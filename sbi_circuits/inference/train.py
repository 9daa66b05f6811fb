"""Neural posterior estimation: from a table to a posterior, with an ensemble of conditional flows.

Sources: Papamakarios & Murray 2016, arXiv:1605.06376; Greenberg et al. 2019, arXiv:1905.07488; ensembles:
Hermans et al. 2022, arXiv:2110.06581.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sbi_circuits.features import UNDEFINED
from sbi_circuits.features.packed import row_chunks
from sbi_circuits.inference import coordinates
from sbi_circuits.inference.choose import better_coordinates, better_scaling, embedded, fitted_start
from sbi_circuits.inference.config import FlowSpec, TrainingConfig
from sbi_circuits.inference.data import TrainingData
from sbi_circuits.inference.encode import FeatureEncoder, feature_groups
from sbi_circuits.inference.flows import build_flows, torch_device
from sbi_circuits.inference.long import LongFamily
from sbi_circuits.inference.optimise import Epoch, MemberFit, Rows, fit_members, log_densities
from sbi_circuits.inference.posterior import Flows, Posterior
from sbi_circuits.inference.stored import StoredFeatures
from sbi_circuits.inference.support import Support
from sbi_circuits.inference.weights import local_weights
from sbi_circuits.seeds import generator, stream_key

_LOG_EVERY = 10
# Operations of so narrow a network are too short to share: two threads took 2.6 times as long as one.
_SMALL, _SMALL_THREADS = 128, 1
_PARTS = ("training", "validation")
_PRIME = 0x100000001B3  # of the hash FNV-1a
_APART = 3.0  # how far rows with and without a feature lie apart, in scaled units


def train(
    table: Any, config: TrainingConfig | None = None, progress: bool = True, seed: int = 0
) -> Posterior:
    """Train a posterior on the simulations of a table.

    Args:
        table: a table, or `TrainingData`; only rows with outcome ok are used.
        config: settings; what is left at zero is derived from the number of rows.
        progress: show a progress bar on standard error.
        seed: of everything random here; the same table, seed and machine give the same posterior.

    Returns:
        A posterior whose `log` says how training went, with the gain over the prior on validation rows.

    Raises:
        InferenceError: fewer than 50 usable rows, values that are not finite, nothing that varies.

    Examples:
        >>> from sbi_circuits.prior import Parameter, Prior
        >>> prior = Prior((Parameter("g", "nS", 0, 1),))
        >>> theta = prior.sample(200, seed=0)
        >>> data = TrainingData(theta, theta + 1, np.zeros((200, 1), dtype=np.uint8), prior, ("rate",))
        >>> posterior = train(data, TrainingConfig(members=1, epochs=2), progress=False, seed=0)
        >>> posterior({"rate": 1.5}).sample(10, seed=0).shape
        (10, 1)
    """
    given = isinstance(table, TrainingData)
    data = table if given else TrainingData.from_table(table)
    config = (config or TrainingConfig()).resolve(data.rows, len(data.prior))
    device = torch_device(config.device)
    training, validation = _split(data.theta, config.validation, seed)
    if config.scaling == "auto":
        config = replace(config, scaling=better_scaling(data, config, training, validation))
    encoder = FeatureEncoder.fit(data.values, data.states, config.drop > 0, training, config.scaling)
    weights = _row_weights(data, encoder, config.importance)
    support = Support.fit(data.values, data.states, encoder, seed)
    # Data that nobody else holds are scaled where they lie.
    stored = StoredFeatures.of(encoder, data.values, data.states, in_place=not given).to(device)
    long = embedded(config, data.feature_names, encoder)
    config = replace(config, embedding="long" if long else "none")
    spec = FlowSpec.of(config, len(data.prior), encoder.inputs, encoder.missing, long)

    groups = torch.as_tensor(_families(data.feature_names, encoder.ignored))

    def split(where: str) -> _Split:
        return _Split(*(_rows(data, stored, groups, weights, part, where) for part in (training, validation)))

    if config.coordinates == "auto":
        both = {name: split(name) for name in coordinates.COORDINATES}
        training_rows, validation_rows = ({k: getattr(v, part) for k, v in both.items()} for part in _PARTS)
        config = replace(config, coordinates=better_coordinates(spec, training_rows, validation_rows))
        spec = replace(spec, coordinates=config.coordinates)
        del both, training_rows, validation_rows
    rows = split(config.coordinates)
    with _threads(_SMALL_THREADS if config.hidden <= _SMALL and device.type == "cpu" else torch.get_num_threads()):
        flows, fits = _fit(spec, rows, config, progress, seed)
        mixture = _weights(fits, len(validation), config.weighting)
        figures = _figures(flows, mixture, rows)
    figures |= {"effective_rows": float(weights.sum() ** 2 / (weights**2).sum())}
    counts = {"training": len(training), "validation": len(validation)}
    own = {"config": vars(config), "seed": int(seed), "rows": counts, "validation": figures}
    return Posterior(
        prior=data.prior, feature_names=data.feature_names, feature_units=data.feature_units, encoder=encoder,
        flows=flows, weights=mixture, support=support,
        provenance=dict(data.provenance) | own,
        log=_log(data, encoder, config, long, fits, figures),
    )  # fmt: skip


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, eq=False)
class _Split:
    training: Rows
    validation: Rows


def _split(theta: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of training and validation rows; the same for every member and every epoch.

    Rows of one configuration, such as windows of one simulation, go together: apart they would tell of one another.
    """
    rows, groups = len(theta), _groups(theta)
    order, most = generator(seed, "validation").permutation(groups.max() + 1), max(10, round(share * rows))
    held_out = np.cumsum(np.bincount(groups)[order]) <= most
    held_out[0] = True
    apart = np.isin(groups, order[held_out])
    return np.flatnonzero(~apart), np.flatnonzero(apart)


def _groups(theta: np.ndarray) -> np.ndarray:
    """(n,) equal for equal rows, from 0; in their own order where all differ."""
    keys = np.zeros(len(theta), dtype=np.uint64)
    for column in theta.T:  # column by column: a million rows are not copied
        keys = keys * np.uint64(_PRIME) + np.ascontiguousarray(column).view(np.uint64)
    _, first, groups = np.unique(keys, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[groups]


def _row_weights(data: TrainingData, encoder: FeatureEncoder, importance: str) -> np.ndarray:
    """(n,) weight of each row in the loss."""
    weights = np.asarray(data.weights)
    if importance == "none" or np.ptp(weights) == 0:
        return np.ones(data.rows)
    states = np.asarray(data.states)
    points = np.hstack([encoder.scaled(data.values, states), _APART * (states == UNDEFINED)])
    return local_weights(points, weights)


def _families(names: tuple[str, ...], ignored: np.ndarray) -> np.ndarray:
    """(F,) family of each feature; one of which the network sees nothing is none of its own."""
    found = np.zeros(len(names), dtype=np.int64)
    found[~ignored] = feature_groups(tuple(np.array(names)[~ignored]))
    return found


def _rows(
    data: TrainingData, stored: StoredFeatures, groups: torch.Tensor, weights: np.ndarray, index: np.ndarray, where: str
) -> Rows:
    z = torch.empty(len(index), len(data.prior))
    for part in row_chunks(*z.shape):
        z[part] = torch.as_tensor(coordinates.to_z(data.prior, data.theta[index[part]], where))
    chosen, device = torch.as_tensor(weights[index]).float(), stored.values.device
    return Rows(z.to(device), stored.only(index), groups.to(device), chosen.to(device))


def _fit(
    spec: FlowSpec, rows: _Split, config: TrainingConfig, progress: bool, seed: int
) -> tuple[Flows, tuple[MemberFit, ...]]:
    """All members, which begin with one Gaussian regression."""
    flows = build_flows(spec, stream_key(seed, "weights") % 2**63).to(rows.training.z.device)
    training, validation = rows.training, rows.validation
    flows.start.load_state_dict(fitted_start(spec, training, validation).state_dict())
    with _progress(config.epochs, progress) as report:
        fits = fit_members(flows, training, validation, config, stream_key(seed, "training") % 2**63, report)
    return flows, fits


@contextmanager
def _progress(epochs: int, shown: bool) -> Iterator[Callable[[int, list[Epoch]], None]]:
    columns = (
        TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs, {task.description}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task("starting", total=epochs)

        def report(index: int, found: list[Epoch]) -> None:
            train, validation = (np.mean([getattr(e, name) for e in found]) for name in ("train", "validation"))
            bar.update(task, completed=index, description=f"loss {train:.3f}, validation {validation:.3f}")

        yield report
        bar.update(task, completed=epochs)


def _weights(fits: tuple[MemberFit, ...], rows: int, weighting: str) -> np.ndarray:
    """(members,) weights of the mixture, summing to one."""
    losses = np.array([fit.validation for fit in fits])
    score = -rows * (losses - losses.min()) if weighting == "validation" else np.zeros(len(fits))
    return np.exp(score) / np.exp(score).sum()


def _figures(flows: Flows, weights: np.ndarray, rows: _Split) -> dict[str, float]:
    """Gain of the mixture over the prior, nats per row: its mean and standard error on validation rows."""
    figures = {}
    for name, part in (("training", rows.training), ("validation", rows.validation)):
        members = log_densities(flows, part).double().cpu().numpy()
        mixture = np.logaddexp.reduce(members + np.log(weights)[:, None], axis=0)
        z = part.z.double().cpu().numpy()
        gain = mixture - coordinates.prior_log_prob(z, flows.spec.coordinates)
        weights_ = part.weights.double().cpu().numpy()
        effective = weights_.sum() ** 2 / (weights_**2).sum()
        mean = float(np.average(gain, weights=weights_))
        figures[f"{name}_gain"] = mean
        figures[f"{name}_gain_error"] = float(np.sqrt(np.average((gain - mean) ** 2, weights=weights_) / effective))
    return figures


def _log(
    data: TrainingData,
    encoder: FeatureEncoder,
    config: TrainingConfig,
    long: tuple[LongFamily, ...],
    fits: tuple[MemberFit, ...],
    figures: dict[str, float],
) -> tuple[str, ...]:
    """The training log, one line each."""
    names = np.array(data.feature_names)
    widths = f"{len(data.prior)} parameters, {len(names)} features, {encoder.inputs} inputs"
    read = ", ".join(f"{family.name} ({len(family.values)})" for family in long)
    lines = [
        f"{data.rows} simulations, {widths}",
        "config: " + ", ".join(f"{k}={v}" for k, v in vars(config).items()),
        "features through a signed logarithm: " + (", ".join(names[encoder.log]) or "none"),
        "features that never varied, left out: " + (", ".join(names[encoder.ignored]) or "none"),
        "long families, read as a few numbers: " + (read or "none"),
    ]
    for member, fit in enumerate(fits, start=1):
        shown = [e for e in fit.epochs if e.index % _LOG_EVERY == 0 or e.index in (1, fit.best)]
        lines += [f"member {member} {epoch}" for epoch in shown]
        lines.append(f"member {member}: best epoch {fit.best} of {len(fit.epochs) - 1}, {fit.seconds:.1f} s")
    return (*lines, *_verdict(figures))


def _verdict(figures: dict[str, float]) -> Iterator[str]:
    gain, error = figures["validation_gain"], figures["validation_gain_error"]
    training = f"{figures['training_gain']:.3f} on training rows"
    yield f"gain over the prior: {gain:.3f} +- {error:.3f} nats a row on validation rows, {training}"
    if gain < 2 * error:
        yield "the posterior is hardly different from the prior: simulate more, or choose other features"
