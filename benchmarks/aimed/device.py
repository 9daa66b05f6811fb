"""The aimed campaign on a GPU, as many rounds as fit: `python -m benchmarks.aimed.device OUT --minutes M`.

One process drives the device; workers prepare its simulations and measure what comes back in every view at once, so
that no recording is written. OUT gets a file for each round (`packed.py`), written anew every minute while it is under
way, and `candidates.safetensors`: what the next rounds aim with. `--start FOLDER` goes on from the candidates (and
rounds) of an earlier run; that file alone is enough. At the end of the time, or after ctrl-C, nothing new begins and
everything that came back is measured and written. Some 6,000 simulations are under way at a time and come back in
order, and the slowest take minutes (see RESULTS.md): a run of less than an hour loses much of what it simulates.
"""

import argparse
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmarks.aimed.aiming import FILE, Aim, first_candidates, load_candidates, targets_of_rounds
from benchmarks.aimed.choosing import choose
from benchmarks.aimed.measuring import Workers
from benchmarks.aimed.open_round import OpenRound
from benchmarks.aimed.packed import packed_rounds
from benchmarks.aimed.settings import TABLES, Settings, Wanted
from sbi_circuits.circuit import Circuit, get_circuit
from sbi_circuits.engines import Engine, default_engine, get_engine

# Half of the first draws are the prior's: most of those stop after a second and cost next to nothing.
FIRST = replace(Settings(), seed=30270, per_round=20_000, prior_share=0.5, nearest=4, others=150,
                widths=(0.15, 0.3, 0.5))  # fmt: skip
LATER = replace(FIRST, prior_share=0.35, nearest=8)
SAVE_EVERY = 60.0
_RESERVE = 15.0  # to measure and write what came last, s
_LEAST = 50  # simulations worth a round
_BACKLOG = 6000  # recordings of a megabyte that may wait to be measured


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Args:
        first, later: settings of the very first round, and of all others.
        wanted: views to measure in; `aim` names the one that rounds aim with.
        minutes: for all of it.
        rounds: at most.
        engine, workers: name of the engine, and processes.
    """

    first: Settings = FIRST
    later: Settings = LATER
    wanted: Mapping[str, Wanted] = field(default_factory=lambda: dict(TABLES))
    aim: str = "adex_clustered_channels"
    minutes: float = 9.0
    rounds: int = 1000
    engine: str = "auto"
    workers: int = 14

    def settings(self, number: int) -> Settings:
        return self.later if number else self.first


def make_engine(name: str, workers: Workers, circuit: Circuit) -> Engine:
    """The engine of that name; a GPU's has the workers prepare its simulations."""
    if (default_engine(circuit) if name == "auto" else name) != "kernel[cuda]":
        return get_engine(name, circuit)
    from sbi_circuits.engines.kernel_cuda import CudaEngine

    return CudaEngine(executor=workers)


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether ctrl-C or the signal to end has come; a second ctrl-C is not waited for."""
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        came.append(number)
        signal.signal(number, before[number])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Run:
    """Rounds, one after another, until the time is up."""

    def __init__(self, out: Path, plan: Plan, engine: Engine, workers: Workers, stop: Callable[[], bool],
                 began: float):  # fmt: skip
        self.out, self.plan, self.engine, self.workers, self.stop = out, plan, engine, workers, stop
        self.circuit = get_circuit(plan.first.circuit)
        self.ends = began + 60.0 * plan.minutes
        self.speed = 0.0  # simulations a second, gaps between rounds included; 0: not known

    def left(self) -> float:
        """Seconds to simulate in."""
        return self.ends - _RESERVE - time.monotonic()

    def rounds(self, aim: Aim) -> None:
        """As many as there is time for."""
        for _ in range(self.plan.rounds):
            settings = self.plan.settings(aim.number)
            size = settings.per_round if not self.speed else min(settings.per_round, int(self.speed * self.left()))
            if size < min(_LEAST, settings.per_round) or self.left() <= 0 or self.stop():
                return
            self.round(aim, settings, size)

    def round(self, aim: Aim, settings: Settings, size: int) -> None:
        """One round; whatever ends it, what was simulated is written."""
        began, seed = time.monotonic(), settings.seed + aim.number
        kernels = choose([aim.candidates], settings, seed)
        kernels = replace(kernels, centres=kernels.centres.astype(np.float32))  # they travel with the round
        opened = OpenRound(aim.number, seed, kernels, size, self.circuit, settings.protocol, self.engine.name,
                           self.plan.wanted)  # fmt: skip
        chosen = time.monotonic()
        try:
            self._simulate(opened, settings)
        finally:
            self.workers.call_off()
            opened.collect(wait=True)
            path = opened.packed().save(self.out) if opened.measured else None
        ended = time.monotonic()
        if path is not None:
            aim.learn(opened.packed().table(self.plan.aim, opened.ones()))
            aim.save(self.out / FILE)
            print(f"{opened.summary()}; {chosen - began:.1f} s to choose kernels, {ended - chosen:.0f} s to simulate, "
                  f"{time.monotonic() - ended:.1f} s to learn; wrote {path.name} ({path.stat().st_size / 1e6:.1f} MB); "
                  f"{aim.said()}", flush=True)  # fmt: skip

    def _simulate(self, opened: OpenRound, settings: Settings) -> None:
        saved, first, before = time.monotonic(), 0.0, 0
        simulations = self.engine.run_batch(self.circuit, opened.theta, settings.protocol, opened.seed,
                                            range(len(opened.theta)))  # fmt: skip
        for n, simulation in enumerate(simulations, start=1):
            opened.add(simulation, self.workers)
            opened.collect(most=_BACKLOG)
            if n == self.engine.batch:  # the first batch waits for compiling
                first, before = time.monotonic(), n
            if self.stop() or self.left() <= 0:
                break
            if time.monotonic() - saved > SAVE_EVERY and opened.measured:
                opened.packed().save(self.out)
                saved = time.monotonic()
        else:
            opened.collect(wait=True)
            if first and n > before:
                self.speed = (n - before) / (time.monotonic() - first)
        simulations.close()  # type: ignore[attr-defined]


def run(out: Path, plan: Plan, start: Path | None = None) -> None:
    """Rounds into a folder, going on from what lies there and in `start`."""
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with Workers(plan.workers) as workers, asked_to_stop() as stop:
        circuit = get_circuit(plan.first.circuit)
        targets = targets_of_rounds(plan.wanted[plan.aim].features.names)
        folders = [folder for folder in (start, out) if folder is not None]
        aim = load_candidates(folders, targets, plan.aim) or first_candidates(targets)
        engine = make_engine(plan.engine, workers, circuit)
        print(f"engine {engine.name}, {plan.workers} workers, {len(aim.candidates.z)} candidates, from round "
              f"{aim.number}; {aim.said()}", flush=True)  # fmt: skip
        Run(out, plan, engine, workers, stop, began).rounds(aim)
    found = packed_rounds(out)
    whole = sum(int((r.outcome == "ok").sum()) for r in found)
    print(f"{len(found)} rounds, {sum(map(len, found))} simulations, {whole} to their end, in {out}", flush=True)


def _arguments() -> tuple[Path, Path | None, Plan]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything, starting and writing included")
    parser.add_argument("--start", type=Path, help="folder of an earlier run, or of its candidates.safetensors alone")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--rounds", type=int, default=1000, help="at most")
    parser.add_argument("--per-round", type=int, default=FIRST.per_round)
    parser.add_argument("--duration", type=float, help="of each simulation, s, to try it out; windows are as long")
    given = parser.parse_args()
    plan = Plan(replace(FIRST, per_round=given.per_round), replace(LATER, per_round=given.per_round),
                minutes=given.minutes, rounds=given.rounds, engine=given.engine, workers=given.workers)  # fmt: skip
    return given.out, given.start, plan if given.duration is None else shortened(plan, given.duration)


def shortened(plan: Plan, duration: float) -> Plan:
    """The same with simulations of another length, s; windows keep their share of it."""
    whole = plan.first.protocol.duration
    first, later = (replace(s, protocol=replace(s.protocol, duration=duration)) for s in (plan.first, plan.later))
    wanted = {name: replace(w, window_s=w.window_s * duration / whole) for name, w in plan.wanted.items()}
    return replace(plan, first=first, later=later, wanted=wanted)


if __name__ == "__main__":
    to, earlier, chosen = _arguments()
    run(to, chosen, earlier)
