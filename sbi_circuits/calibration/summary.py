"""Everything calibration asks of a posterior, in one call."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sbi_circuits.calibration.held_out import HeldOut
from sbi_circuits.calibration.local import LocalCheck, LocalTest
from sbi_circuits.calibration.ranks import (
    Coverage,
    Pattern,
    coverage_by_pattern,
    coverage_of_ranks,
    posterior_draws,
    ranks_among,
)
from sbi_circuits.calibration.regions import Tarp, nearby_references, tarp
from sbi_circuits.calibration.uniform import holm, spread_ranks, uniformity
from sbi_circuits.errors import InferenceError
from sbi_circuits.table import replace_file

LEVELS = (0.5, 0.9)
ROWS, DRAWS = 500, 400
_MIN_ROWS = 50


@dataclass(frozen=True, eq=False)
class Calibration:
    """What held-out simulations say of a posterior.

    Args:
        parameters: (P,) names.
        draws: D of each posterior.
        ranks: (n, P) of the true configurations among them.
        coverage: of central intervals, overall and by parameter.
        patterns: coverage by what is undefined.
        p_values: (P,) of the ranks of each parameter being uniform (simulation-based calibration).
        tarp: coverage of the whole configuration at once.
        local: L-C2ST over all held-out observations; None where it was not asked for.
        subsets: the same questions with only some features observed, by their names.
    """

    parameters: tuple[str, ...]
    draws: int
    ranks: np.ndarray
    coverage: Coverage
    patterns: tuple[Pattern, ...]
    p_values: np.ndarray
    tarp: Tarp
    local: LocalCheck | None = None
    subsets: Mapping[str, "Calibration"] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return len(self.ranks)

    def tests(self) -> dict[str, float]:
        """p-value of every test, by its name, adjusted so that the smallest one speaks for all (Holm)."""
        found = {f"ranks of {name}": float(p) for name, p in zip(self.parameters, self.p_values, strict=True)}
        found["TARP"] = self.tarp.p_value
        if self.local is not None:
            found["L-C2ST"] = self.local.p_value
        return dict(zip(found, holm(list(found.values())).tolist(), strict=True))

    def agrees(self, level: float = 0.05) -> bool:
        """Whether no test fails; an exact posterior passes with probability 1 - level or more."""
        return min(self.tests().values()) > level

    def failing(self, level: float = 0.05) -> tuple[str, ...]:
        """Tests that fail, the clearest first."""
        return tuple(name for name, p in sorted(self.tests().items(), key=lambda item: item[1]) if p <= level)

    def direction(self) -> str:
        """In which way the intervals are wrong, in a word or two; empty where they are not."""
        if self.agrees():
            return ""
        wrong = (self.coverage.overall - self.coverage.levels) / self.coverage.overall_error
        # A shifted posterior misses too, but its ranks lean to one side.
        lean = np.abs((self.ranks + 0.5).mean(0) / (self.draws + 1) - 0.5).max() * np.sqrt(12 * self.rows)
        if np.abs(wrong).max() < max(2.0, lean):
            return "shifted, or wrong in shape"
        return "too wide" if wrong[np.argmax(np.abs(wrong))] > 0 else "too narrow"

    def lines(self) -> list[str]:
        """The findings, one line each."""
        direction = self.direction()
        failing = self.failing()
        verdict = f"FAILS in {', '.join(failing[:4])}{' and others' * (len(failing) > 4)}" if failing else "passes"
        found = [
            f"calibration on {self.rows} held-out simulations {verdict} (level 0.05 over {len(self.tests())} tests)"
            + (f": {direction}" if direction else ""),
            f"coverage: {self.coverage.summary()}",
            f"TARP: {self.tarp.summary()}",
        ]
        if self.local is not None:
            found.append(f"L-C2ST over all observations: p {self.local.p_value:.2g}")
        if len(self.patterns) > 1:
            found += [f"where {p.text}: {p.coverage.summary()}" for p in self.patterns]
        for name, part in self.subsets.items():
            verdict = f"fails in {', '.join(part.failing()[:3])}" if part.failing() else "passes"
            found.append(f"only {name} observed: {verdict}; {part.coverage.summary()}")
        return found

    def summary(self) -> str:
        """The findings for people, a line each."""
        return "\n".join(self.lines())

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain values."""
        levels = [f"{level:g}" for level in self.coverage.levels]
        coverage = dict(zip(levels, self.coverage.overall.tolist(), strict=True))
        by_parameter = dict(zip(self.parameters, self.coverage.parameters.T.tolist(), strict=True))
        return {
            "rows": self.rows, "draws": self.draws, "passes": self.agrees(), "tests": self.tests(),
            "direction": self.direction(), "findings": self.lines(),
            "coverage": coverage, "coverage_by_parameter": by_parameter,
            "coverage_by_pattern": {
                p.text: {"rows": p.coverage.rows, "coverage": p.coverage.overall.tolist()} for p in self.patterns
            },
            "subsets": {name: part.to_dict() for name, part in self.subsets.items()},
        }  # fmt: skip

    def save(self, path: str | Path) -> Path:
        """Write the figures as JSON; returns the path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, (json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n").encode())
        return path


def calibrate(
    posterior: Any,
    held: HeldOut,
    *,
    draws: int = DRAWS,
    local: bool = True,
    subsets: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> Calibration:
    """Judge a posterior by simulations it has not seen: ranks, coverage, TARP, L-C2ST.

    A sixth of the rows serve TARP as reference points and are not judged.

    Args:
        posterior: called with (values, states) of one row, gives a distribution with `sample(n, seed)`.
        held: the simulations, drawn from the posterior's prior.
        draws: of every posterior.
        local: whether to train L-C2ST, which takes most draws to be precise (`4 + 2 P + 2` at least).
        subsets: title -> names of features or families; for each the posterior is judged with all others unobserved.
        seed: of everything random.

    Raises:
        InferenceError: fewer than 50 rows.

    Examples:
        >>> from types import SimpleNamespace
        >>> from sbi_circuits.prior import Parameter, Prior
        >>> prior = Prior((Parameter("g", "1", 0, 1),))
        >>> x = np.random.default_rng(0).standard_normal((300, 1))
        >>> held = HeldOut(prior.sample(300, 0), x, np.zeros((300, 1), dtype=np.uint8), prior, ("a",))
        >>> calibrate(lambda x: SimpleNamespace(sample=prior.sample), held, draws=99).agrees()
        True
    """
    if len(held) < _MIN_ROWS:
        raise InferenceError(f"calibration needs at least {_MIN_ROWS} held-out simulations, got {len(held)}")
    pool, judged = held.split(1 / 6, seed)
    parts = {title: _judge(posterior, judged.only(names), pool.only(names), draws, False, seed, {})
             for title, names in (subsets or {}).items()}  # fmt: skip
    return _judge(posterior, judged, pool, draws, local, seed, parts)


def _judge(
    posterior: Any, held: HeldOut, pool: HeldOut, draws: int, local: bool, seed: int,
    subsets: Mapping[str, Calibration],
) -> Calibration:  # fmt: skip
    theta = posterior_draws(posterior, held.values, held.states, draws, seed)
    ranks = ranks_among(theta, held.theta)
    # The pool is small: its scales serve both sides, so that the points are comparable.
    references = nearby_references(
        held.points(held.values, held.states), held.points(pool.values, pool.states), pool.theta, seed
    )
    unit = held.prior.to_unit
    return Calibration(
        held.prior.names, draws, ranks, coverage_of_ranks(ranks, draws, LEVELS),
        coverage_by_pattern(ranks, held.states, draws, held.feature_names, LEVELS),
        uniformity(spread_ranks(ranks, draws, seed)),
        tarp(unit(theta), unit(held.theta), unit(references), seed),
        LocalTest.fit(posterior, held, theta, seed=seed).everywhere if local else None,
        subsets,
    )  # fmt: skip
