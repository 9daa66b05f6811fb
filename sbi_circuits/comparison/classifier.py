"""Which of several circuits explains a recording? A classifier over their tables, amortised and calibrated.

The probability of circuit k given features x is p(k) p(x | k) over the sum of it, where p(x | k), the evidence, is
integrated over the circuit's prior. A classifier trained on simulations of all circuits learns it without computing
any integral (Radev et al. 2021, arXiv:2004.10629; Elsemueller et al. 2023). Only simulations that ran to their end
have features: that a circuit is silent in half of its prior counts against it, by its share of rows with outcome ok.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

from sbi_circuits.calibration import HeldOut, Reach, ReachTest
from sbi_circuits.comparison.network import ClassifierConfig, Members, fit_members
from sbi_circuits.comparison.reliability import Reliability, mixed, reliability, temperature
from sbi_circuits.errors import InferenceError, UnknownNameError
from sbi_circuits.inference.encode import FeatureEncoder, feature_groups, random_drops
from sbi_circuits.inference.observe import observation
from sbi_circuits.seeds import generator, stream_key
from sbi_circuits.table import BaseTable

MIN_ROWS = 100
_SHARES = (0.65, 0.15)  # of the rows: training, choosing weights and temperature; the others test


@dataclass(frozen=True, eq=False)
class CircuitProbabilities:
    """How probable each circuit is behind one observation.

    Args:
        names: (K,) circuits.
        probabilities: (K,) posterior probabilities, summing to one.
        spread: (K,) sd over the members of the ensemble.
        reach: by circuit, whether its simulations could have produced the observation at all.
    """

    names: tuple[str, ...]
    probabilities: np.ndarray
    spread: np.ndarray
    reach: Mapping[str, Reach]

    @property
    def best(self) -> str:
        """The most probable circuit."""
        return self.names[int(self.probabilities.argmax())]

    def summary(self) -> str:
        """One line a circuit, the most probable first, and a warning where none of them fits."""
        lines = []
        for k in np.argsort(-self.probabilities, kind="stable"):
            name = self.names[k]
            lines.append(f"{name}: probability {self.probabilities[k]:.3f} +- {self.spread[k]:.3f}; "
                         f"{self.reach[name].summary()}")  # fmt: skip
        if not any(found.inside() for found in self.reach.values()):
            lines.append("none of the circuits reaches this observation: their probabilities are extrapolated, and "
                         "only say which is less far away")  # fmt: skip
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class CircuitClassifier:
    """An ensemble of classifiers over circuits; called with an observation it gives probabilities.

    See also: `compare_circuits`.

    Args:
        names: (K,) circuits.
        feature_names: (F,) of the observation; feature_set_digest: of how they are measured, where known.
        encoder: features to inputs.
        members: the networks.
        scale, offset: temperature found on rows kept aside, and (K,) offsets of the log probabilities.
        log_ok: (K,) log share of each circuit's simulations that ran to their end.
        reach: by circuit, the test whether it reaches an observation.
        reliability: on rows that neither trained nor calibrated.
        feature_set, protocol: how recordings are measured and how long simulations last, where known.
        tables: circuit -> digest of its table, where known.
    """

    names: tuple[str, ...]
    feature_names: tuple[str, ...]
    feature_set_digest: str
    encoder: FeatureEncoder
    members: Members
    scale: float
    offset: np.ndarray
    log_ok: np.ndarray
    reach: Mapping[str, ReachTest]
    reliability: Reliability
    feature_set: Mapping[str, Any] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, x: Any, prior: Mapping[str, float] | None = None) -> CircuitProbabilities:
        """Probabilities of the circuits given one observation.

        Args:
            x: in any form a posterior takes.
            prior: circuit -> prior probability; equal ones where None.

        Raises:
            UnknownNameError: a circuit or a feature that is not known.
            InferenceError: an observation that does not fit, or probabilities that cannot be.
        """
        seen = observation(x, self.feature_names, self.feature_set_digest)
        own = self.log_ok + self._log_prior(prior)
        logits = self.logits(seen.values[None], seen.states[None])
        found = softmax(self._calibrated(mixed(logits))[0] + own)
        each = softmax(self._calibrated(logits[:, 0]) + own, axis=1)
        reach = {name: test.check((seen.values, seen.states)) for name, test in self.reach.items()}
        return CircuitProbabilities(self.names, found, each.std(0), reach)

    def logits(self, values: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Logits (M, n, K) of every member for rows of features (n, F), before temperature, equal classes."""
        with torch.no_grad():
            return self.members(self.encoder.tensors(values, states, torch.float32).inputs()).double().numpy()

    def log_odds(self, values: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Log probabilities (n, K) for rows of features that ran to their end, equal classes, calibrated."""
        logs = self._calibrated(mixed(self.logits(values, states)))
        return np.asarray(logs - np.logaddexp.reduce(logs, axis=1, keepdims=True))

    def _calibrated(self, logs: np.ndarray) -> np.ndarray:
        return self.scale * logs + self.offset

    def _log_prior(self, prior: Mapping[str, float] | None) -> np.ndarray:
        if prior is None:
            return np.zeros(len(self.names))
        for name in prior:
            if name not in self.names:
                raise UnknownNameError("circuit", name, self.names)
        given = np.array([float(prior.get(name, 0.0)) for name in self.names])
        if not (np.isfinite(given) & (given >= 0)).all() or given.sum() <= 0:
            raise InferenceError(f"prior probabilities of circuits must be >= 0 and not all 0, got {dict(prior)}")
        with np.errstate(divide="ignore"):
            return np.log(given / given.sum())


def compare_circuits(
    tables: Sequence[BaseTable], config: ClassifierConfig | None = None, seed: int = 0
) -> CircuitClassifier:
    """Train a classifier over the circuits of several tables.

    Args:
        tables: one for each circuit, measured with one feature set and one duration; rows drawn from the prior count.
        config: of the networks.
        seed: of everything random.

    Raises:
        InferenceError: fewer than two tables, a circuit twice, other features or durations, or too few rows.
    """
    if len(tables) < 2:
        raise InferenceError(f"a comparison needs at least two tables, got {len(tables)}")
    names = [table.circuit_name for table in tables]
    if len(set(names)) < len(names):  # two variants of one circuit
        names = [f"{name} ({k})" for k, name in enumerate(names, start=1)]
    first = tables[0]
    for name, table in zip(names[1:], tables[1:], strict=True):
        if table.feature_set.digest != first.feature_set.digest:
            raise InferenceError(f"the tables of {names[0]} and {name} have other features; measure both alike")
        durations = [float(t.manifest.protocol["duration"]) for t in (first, table)]
        if durations[0] != durations[1]:
            raise InferenceError(f"the simulations of {names[0]} last {durations[0]:g} s, those of {name} "
                                 f"{durations[1]:g} s; features of other durations cannot be compared")  # fmt: skip
    rows = {name: HeldOut.from_table(table) for name, table in zip(names, tables, strict=True)}
    shares = {name: _share_ok(table) for name, table in zip(names, tables, strict=True)}
    found = train_classifier(rows, shares, config, seed, first.feature_set.digest)
    digests = {name: table.digest for name, table in zip(names, tables, strict=True)}
    features, protocol = first.feature_set.to_dict(), dict(first.manifest.protocol)
    return replace(found, feature_set=features, protocol=protocol, tables=digests)


def train_classifier(
    rows: Mapping[str, HeldOut],
    shares: Mapping[str, float] | None = None,
    config: ClassifierConfig | None = None,
    seed: int = 0,
    feature_set_digest: str = "",
) -> CircuitClassifier:
    """Train a classifier on simulations of several circuits.

    Args:
        rows: circuit -> simulations that ran to their end, drawn from its prior.
        shares: circuit -> share of its simulations that did; all alike where None.
        config: of the networks.
        seed: of everything random.
        feature_set_digest: of how the features were measured.

    Raises:
        InferenceError: fewer than two circuits, fewer than 100 rows of one, or features that differ.
    """
    config = config or ClassifierConfig()
    names, parts = tuple(rows), list(rows.values())
    for name, part in rows.items():
        if len(part) < MIN_ROWS:
            raise InferenceError(f"a comparison needs {MIN_ROWS} simulations of each circuit that ran to their end "
                                 f"and were drawn from its prior; {name} has {len(part)}")  # fmt: skip
        if part.feature_names != parts[0].feature_names:
            raise InferenceError(f"{names[0]} and {name} have other features; measure both alike")
    if len(names) < 2:
        raise InferenceError(f"a comparison needs at least two circuits, got {len(names)}")
    values, states = np.vstack([p.values for p in parts]), np.vstack([p.states for p in parts])
    labels = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    training, aside, test = _split([len(p) for p in parts], seed)
    encoder = FeatureEncoder.fit(values[training], states[training], dropping=True)
    weights = 1.0 / np.bincount(labels)
    weights *= len(weights) / weights.sum()
    members = _fit(values, states, labels, weights, (training, aside), encoder, config, parts[0].feature_names, seed)
    draft = CircuitClassifier(
        names, parts[0].feature_names, feature_set_digest, encoder, members, 1.0, np.zeros(len(names)),
        np.log([max((shares or {}).get(name, 1.0), 1e-300) for name in names]),
        {name: ReachTest.fit(part, seed) for name, part in rows.items()}, _NOTHING,
    )  # fmt: skip
    logs = mixed(draft.logits(values[aside], states[aside]))
    scale, offset = temperature(logs, labels[aside], weights)
    found = replace(draft, scale=scale, offset=offset)
    balanced = _balanced(labels[test], test, seed)
    probabilities = np.exp(found.log_odds(values[balanced], states[balanced]))
    return replace(found, reliability=reliability(probabilities, labels[balanced], seed))


_NOTHING = Reliability(np.zeros(0), np.zeros(0), np.zeros(0), 0.0, 0.0, 0.0, 1.0, 0)


def _share_ok(table: BaseTable) -> float:
    """Share of the simulations drawn from the prior that ran to their end; never quite 0 or 1."""
    rows = table.read(("outcome", "proposal"))
    drawn = rows.proposal == "prior"
    return float(((rows.outcome[drawn] == "ok").sum() + 0.5) / (drawn.sum() + 1))


def _split(counts: list[int], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of training rows, rows kept aside, and test rows: the same shares of every circuit."""
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    start = 0
    for k, count in enumerate(counts):
        order = start + generator(seed, "classes", k).permutation(count)
        a, b = round(_SHARES[0] * count), round(sum(_SHARES) * count)
        for part, chosen in zip(parts, (order[:a], order[a:b], order[b:]), strict=True):
            part.append(chosen)
        start += count
    training, aside, test = (np.sort(np.concatenate(part)) for part in parts)
    return training, aside, test


def _balanced(labels: np.ndarray, index: np.ndarray, seed: int) -> np.ndarray:
    """As many test rows of every circuit as of the rarest: the classifier's own prior is equal."""
    least = int(np.bincount(labels).min())
    chosen = [generator(seed, "balance", k).permutation(index[labels == k])[:least] for k in range(labels.max() + 1)]
    return np.sort(np.concatenate(chosen))


def _fit(
    values: np.ndarray, states: np.ndarray, labels: np.ndarray, weights: np.ndarray,
    parts: tuple[np.ndarray, np.ndarray], encoder: FeatureEncoder, config: ClassifierConfig,
    feature_names: tuple[str, ...], seed: int,
) -> Members:  # fmt: skip
    encoded = encoder.tensors(values, states, torch.float32)
    groups = torch.as_tensor(feature_groups(feature_names))
    members = Members(encoder.inputs, len(weights), config, stream_key(seed, "classifiers") % 2**63)
    fit_members(
        members,
        lambda index, dropped: encoded[index].inputs(dropped),
        torch.as_tensor(parts[0]),
        torch.as_tensor(labels),
        torch.as_tensor(weights).float(),
        torch.as_tensor(parts[1]),
        config,
        lambda n, random: random_drops(n, groups, config.drop, random),
        stream_key(seed, "order") % 2**63,
    )
    return members.eval().requires_grad_(False)
