"""Prepared simulations as arrays with a row for each: what worker processes send back, and batches are made of."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from sbi_circuits.engines.base import Simulation
from sbi_circuits.engines.cuda_columns import Columns
from sbi_circuits.engines.setup import Setup, drawn_by_engine

_NEVER = np.iinfo(np.int32).max
_PADDING = {"step_at": _NEVER, "recorded": -1, "cell_holds": 1}


@dataclass(frozen=True, eq=False)
class Prepared:
    """One simulation.

    Args:
        index: of the simulation.
        setup: without the synapses that the device draws.
        reals: (reals,) invariants and weights, in the precision of the state.
        levels: (levels,) of the early-stop rule and the wiring.
        rule: first step and end of the early-stop window; -1 for none.
        poisson: of each Poisson input: thresholds, guide, (first count, driven neurons, mode).
        bounds: (projections,) more synapses than each will have, save once in 1e14 draws.
        wall_s: time this took.
    """

    index: int
    setup: Setup
    reals: np.ndarray
    levels: np.ndarray
    rule: tuple[int, int]
    poisson: tuple[tuple[np.ndarray, np.ndarray, tuple[int, int, int]], ...]
    bounds: np.ndarray
    wall_s: float


@dataclass(frozen=True, eq=False)
class Stack:
    """Simulations of one circuit and protocol; rows shorter than the longest are padded.

    Args:
        dt: time step, seconds.
        steps, warmup_steps: of each simulation.
        indices: (n,) of the simulations; walls: (n,) seconds their preparation took.
        keys: (n, 2) random keys.
        sizes: (n, populations) neurons.
        holds: (n, populations) steps from a spike to the first that can follow; the fewest where neurons differ.
        cell_holds: (n, cells) the same of each cell, or (n, 0) where neurons of a population share it.
        initial: (n, start rows, neurons) where variables start, in the precision of the state.
        labels: (n, label rows, neurons).
        recorded: (n, recorded cells), -1 past the last.
        rules: (n, 2); levels: (n, levels); reals: (n, reals); bounds: (n, projections): as in `Prepared`.
        delays: (n, projections) steps, -1 where a projection is absent; longest: (n,) of all synapses.
        inputs: (n, Poisson inputs, 5) first count, driven neurons, mode, place among the thresholds, their number.
        thresholds: of all tables one after another; guide: (n, Poisson inputs, 256).
        step_at, step_value: (n, shared inputs, entries) first steps and values; past the last, a step never reached.
        drawn: the setup of each, without what is above, where the host draws synapses; else empty.
    """

    dt: float
    steps: int
    warmup_steps: int
    indices: np.ndarray
    walls: np.ndarray
    keys: np.ndarray
    sizes: np.ndarray
    holds: np.ndarray
    cell_holds: np.ndarray
    initial: np.ndarray
    labels: np.ndarray
    recorded: np.ndarray
    rules: np.ndarray
    levels: np.ndarray
    reals: np.ndarray
    bounds: np.ndarray
    delays: np.ndarray
    longest: np.ndarray
    inputs: np.ndarray
    thresholds: np.ndarray
    guide: np.ndarray
    step_at: np.ndarray
    step_value: np.ndarray
    drawn: tuple[Setup, ...]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def recorded_cells(self) -> int:
        """Of the simulation that records most."""
        return self.recorded.shape[1]

    def take(self, rows: Sequence[int]) -> "Stack":
        """Some of the simulations; tables stay where they are."""
        chosen: dict[str, Any] = {f: getattr(self, f)[list(rows)] for f in _ROWS}
        return replace(self, **chosen, drawn=tuple(self.drawn[b] for b in rows) if self.drawn else ())

    @classmethod
    def of(cls, columns: Columns, prepared: Sequence[Prepared], real: Any) -> "Stack":
        """Stack some simulations, at least one."""
        setups, first = [p.setup for p in prepared], prepared[0].setup
        sizes = np.array([[c.size for c in s.cells] for s in setups])
        inputs, thresholds, guide = _tables(columns, prepared)
        step_at, step_value = _shared_inputs(columns, setups, real)
        delays, longest = _delays(columns, setups)
        given = any(not drawn_by_engine(p) for p in columns.circuit.projections)
        return cls(
            dt=first.dt, steps=first.steps, warmup_steps=first.warmup_steps,
            indices=np.array([p.index for p in prepared], dtype=np.int64),
            walls=np.array([p.wall_s for p in prepared]),
            keys=np.array([s.keys for s in setups], dtype=np.uint32),
            sizes=sizes,
            holds=np.array([[max(int(np.min(c.refractory_steps)), 1) for c in s.cells] for s in setups]),
            cell_holds=_cell_holds(columns, setups, int(sizes.sum(axis=1).max())),
            initial=_initial(columns, setups, int(sizes.max()), real),
            labels=_labels(columns, setups, int(sizes.max())),
            recorded=_padded([s.recorded for s in setups], -1),
            rules=np.array([p.rule for p in prepared], dtype=np.int32),
            levels=np.stack([p.levels for p in prepared]),
            reals=np.stack([p.reals for p in prepared]),
            bounds=np.stack([p.bounds for p in prepared]),
            delays=delays, longest=longest, inputs=inputs, thresholds=thresholds, guide=guide,
            step_at=step_at, step_value=step_value,
            drawn=tuple(_remainder(columns, s) for s in setups) if given else (),
        )  # fmt: skip

    @classmethod
    def join(cls, stacks: Sequence["Stack"]) -> "Stack":
        """One stack of several, in their order."""
        if len(stacks) == 1:
            return stacks[0]
        joined: dict[str, Any] = {f: _joined([getattr(s, f) for s in stacks], _PADDING.get(f, 0)) for f in _ROWS}
        places = np.cumsum([0, *(len(s.thresholds) for s in stacks)])
        edges = np.cumsum([0, *map(len, stacks)])
        for a, b, place in zip(edges[:-1], edges[1:], places, strict=False):
            joined["inputs"][a:b, :, 3] += place
        thresholds = np.concatenate([s.thresholds for s in stacks])
        return replace(stacks[0], **joined, thresholds=thresholds, drawn=tuple(d for s in stacks for d in s.drawn))


_ROWS = tuple(f.name for f in fields(Stack) if f.name not in ("dt", "steps", "warmup_steps", "thresholds", "drawn"))


@dataclass(frozen=True, eq=False)
class Piece:
    """What came of preparing some simulations.

    Args:
        number: how many they were.
        stack: those that can run, in order; None where there are none.
        failed: the others, by their position.
    """

    number: int
    stack: Stack | None
    failed: dict[int, Simulation]

    @classmethod
    def join(cls, pieces: Sequence["Piece"]) -> "Piece":
        """One piece of several, in their order."""
        begins = np.cumsum([0, *(p.number for p in pieces)]).tolist()
        failed = {begin + b: s for begin, p in zip(begins, pieces, strict=False) for b, s in p.failed.items()}
        stacks = [p.stack for p in pieces if p.stack is not None]
        return cls(begins[-1], Stack.join(stacks) if stacks else None, failed)


def _joined(arrays: list[np.ndarray], padding: Any) -> np.ndarray:
    """Rows of several arrays one after another; shorter ones are filled up."""
    shape = np.max([a.shape[1:] for a in arrays], axis=0).astype(int).tolist() if arrays[0].ndim > 1 else []
    if all(list(a.shape[1:]) == shape for a in arrays):
        return np.concatenate(arrays)
    joined = np.full((sum(map(len, arrays)), *shape), padding, dtype=arrays[0].dtype)
    begin = 0
    for a in arrays:
        joined[(slice(begin, begin + len(a)), *map(slice, a.shape[1:]))] = a
        begin += len(a)
    return joined


def _padded(rows: Sequence[np.ndarray], padding: int) -> np.ndarray:
    found = np.full((len(rows), max(map(len, rows))), padding, dtype=np.int32)
    for b, row in enumerate(rows):
        found[b, : len(row)] = row
    return found


def _remainder(columns: Columns, setup: Setup) -> Setup:
    """What the synapses that the host drew need of a setup."""
    projections = columns.circuit.projections
    synapses = tuple(s for s in setup.synapses if not drawn_by_engine(projections[s.number]))
    cells = tuple(replace(c, constants={}, initial={}) for c in setup.cells)
    return replace(setup, cells=cells, synapses=synapses, poisson=(), currents=(), courses=(), values={}, labels={})


def _delays(columns: Columns, setups: Sequence[Setup]) -> tuple[np.ndarray, np.ndarray]:
    delays = np.full((len(setups), len(columns.circuit.projections)), -1, dtype=np.int32)
    longest = np.zeros(len(setups), dtype=np.int64)
    for b, setup in enumerate(setups):
        for s in setup.synapses:
            delays[b, s.number] = s.delay_steps
            longest[b] = max(longest[b], int(s.delays[-1]))
    return delays, longest


def _cell_holds(columns: Columns, setups: Sequence[Setup], cells: int) -> np.ndarray:
    if not any(p.refractory_varies for p in columns.circuit.populations):
        return np.zeros((len(setups), 0), dtype=np.int32)
    holds = np.ones((len(setups), cells), dtype=np.int32)
    for b, setup in enumerate(setups):
        steps = np.concatenate([np.broadcast_to(c.refractory_steps, c.size) for c in setup.cells])
        holds[b, : len(steps)] = np.maximum(steps, 1)
    return holds


def _initial(columns: Columns, setups: Sequence[Setup], width: int, real: Any) -> np.ndarray:
    initial = np.zeros((len(setups), columns.start_rows, width), dtype=real)
    rows = [columns.starts(k) for k in range(len(columns.parts))]
    for b, setup in enumerate(setups):
        for cells, starts in zip(setup.cells, rows, strict=True):
            for row, variable in starts:
                initial[b, row, : cells.size] = cells.initial[variable]
    return initial


def _labels(columns: Columns, setups: Sequence[Setup], width: int) -> np.ndarray:
    populations = columns.circuit.populations
    number = columns.label_row(len(populations))
    labels = np.empty((len(setups), max(number, 1), width if number else 1), dtype=np.int32)
    # Where a configuration has no labels, no two neurons share one.
    labels[...] = np.arange(labels.shape[-1], dtype=np.int32)
    rows = [(p.name, columns.label_row(k)) for k, p in enumerate(populations)]
    for b, setup in enumerate(setups):
        for name, first in rows:
            if (found := setup.labels.get(name)) is not None:
                labels[b, first : first + len(found), : found.shape[1]] = found
    return labels


def _shared_inputs(columns: Columns, setups: Sequence[Setup], real: Any) -> tuple[np.ndarray, np.ndarray]:
    c = columns
    entries = max((len(s.starts) for setup in setups for s in setup.currents), default=0)
    shape = (len(setups), max(c.shared_row(len(c.parts)), 1), max(entries, 1))
    step_at, values = np.full(shape, _NEVER, dtype=np.int32), np.zeros(shape, dtype=real)
    for b, setup in enumerate(setups):
        for s in setup.currents:
            k = c.position(s.target)
            row = c.shared_row(k) + c.parts[k].shared.index(s.name)
            step_at[b, row, : len(s.starts)], values[b, row, : len(s.starts)] = s.starts, s.values
    return step_at, values


def _tables(columns: Columns, prepared: Sequence[Prepared]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of each Poisson input, thresholds once for each distinct table, guides."""
    number = len(columns.poisson)
    inputs = np.zeros((len(prepared), number, 5), dtype=np.int32)
    guide = np.zeros((len(prepared), max(number, 1), 256), dtype=np.int32)
    places: dict[int, int] = {}
    tables, length = [np.zeros(0, dtype=np.uint32)], 0
    for b, p in enumerate(prepared):
        for m, (thresholds, guide_of, numbers) in enumerate(p.poisson):
            if id(thresholds) not in places:
                places[id(thresholds)] = length
                tables.append(thresholds)
                length += len(thresholds)
            guide[b, m] = guide_of
            inputs[b, m] = *numbers, places[id(thresholds)], len(thresholds)
    return inputs, np.concatenate(tables), guide
