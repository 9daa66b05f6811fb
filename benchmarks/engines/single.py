"""Parts that time single simulations of `adex_clustered`: fixed configurations, and prior draws with early stop."""

import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines import limits
from benchmarks.engines.client import (
    KERNEL,
    NEST,
    PUBLISHED,
    RUNTIME,
    STANDALONE,
    Worker,
    kernels,
    missing,
    theta_of,
    workers,
)
from benchmarks.engines.machine import measure_peaks
from benchmarks.engines.nest_client import adex_task, run_nest
from benchmarks.engines.tables import ratio, spread, table
from sbi_circuits.circuit import Circuit, get_circuit
from sbi_circuits.engines import Protocol
from sbi_circuits.engines.setup import prepare

CIRCUIT = "adex_clustered"
CONFIGURATIONS = Path(__file__).with_name("configurations.toml")
TARGETS = {RUNTIME: 60.0, STANDALONE: 6.0}  # how many times faster the kernel is to be, asynchronous state
WHOLE = 2.0  # seconds of the check configuration, as in the published model's own check
# A campaign's worker runs one simulation after another: an engine that takes hundredths of a second for each is timed
# over so many of them, in which it takes about as long as Brian2 for one.
ROW = 20
COMPILED = 1.102  # seconds that reach the second of the published route's two calls of `run`
NEST_DURATION = 2.0  # seconds; NEST's near equivalent takes several seconds for each
Timings = dict[str, dict[str, list[dict[str, Any]]]]


@dataclass(frozen=True)
class Options:
    """How much is measured.

    Args:
        duration: simulated seconds, the same for every engine of a comparison.
        repeats: interleaved; all of them simulate the same network.
        draws: prior draws.
        without: engines to leave out.
    """

    duration: float = 10.0
    repeats: int = 3
    draws: int = 8
    without: tuple[str, ...] = ()

    def present(self, *engines: str) -> tuple[list[str], list[str]]:
        """Engines to be timed, and a line for each that is not."""
        reasons = {e: "left out" if e in self.without else missing(e) for e in engines}
        return [e for e in engines if not reasons[e]], [f"{e}: {why}." for e, why in reasons.items() if why]


def configurations() -> dict[str, dict[str, float]]:
    """Name -> theta by parameter name, from `configurations.toml`."""
    listed = tomllib.loads(CONFIGURATIONS.read_text())["configuration"]
    return {entry["name"]: entry["theta"] for entry in listed}


def measure_configurations(options: Options) -> str:
    """Every engine on the fixed configurations."""
    present, skipped = options.present(RUNTIME, STANDALONE, NEST, *kernels())
    circuit = get_circuit(CIRCUIT)
    chosen = configurations()
    found: Timings = {name: {engine: [] for engine in present} for name in chosen}
    with workers(*(e for e in present if e not in (NEST, KERNEL)), KERNEL) as group:
        for k in range(options.repeats):
            for name, values in chosen.items():
                theta = theta_of(values, circuit.prior.names)
                for worker in group:
                    task = {"circuit": CIRCUIT, "theta": theta, "duration": options.duration, "index": 0}
                    _note(found, name, worker.engine, worker.ask(do="simulate", **task), options.duration)
                if NEST in present and k == 0:
                    _note(found, name, NEST, _nest(circuit, theta, group[-1]), NEST_DURATION)
    return "\n\n".join([_times(found), _limits(circuit, found), _apart(found, skipped)])


def _nest(circuit: Circuit, theta: list[float], kernel: Worker) -> dict[str, Any]:
    """NEST's near equivalent, and the rate of the kernel over the same time."""
    task = {"circuit": CIRCUIT, "theta": theta, "duration": NEST_DURATION, "index": 0}
    setup = prepare(circuit, np.array(theta), Protocol(NEST_DURATION, early_stop=False), 0, 0)
    with tempfile.TemporaryDirectory() as folder:
        answer = run_nest(adex_task(setup, Path(folder) / "network.npz", seed=1))
    return {**answer, "kernel_rate": kernel.ask(do="simulate", **task)["rate"]}


def _note(found: Timings, name: str, engine: str, answer: dict[str, Any], duration: float) -> None:
    answer = {**answer, "cpu": answer["cpu_s"] / duration, "wall": answer["wall_s"] / duration}
    found[name][engine].append(answer)
    print(f"  {name}, {engine}: {answer['cpu']:.4f} s per s, {answer['rate']:.1f} Hz", flush=True)


def _values(timings: list[dict[str, Any]], key: str) -> list[float]:
    return [float(t[key]) for t in timings]


def _times(found: Timings) -> str:
    header = ["configuration", "engine", "rate (Hz)", "wall s per s", "processor s per s", f"{KERNEL} is faster by"]
    rows = []
    for name, engines in found.items():
        for engine, timings in engines.items():
            target = f", target {TARGETS[engine]:g}" if engine in TARGETS and name == "asynchronous" else ""
            faster = ratio(_values(timings, "cpu"), _values(engines[KERNEL], "cpu")) + target
            wall, cpu = spread(_values(timings, "wall")), spread(_values(timings, "cpu"))
            beside = f" (kernel: {timings[0]['kernel_rate']:.1f})" if engine == NEST else ""
            rows.append([name, engine, f"{timings[0]['rate']:.1f}{beside}", wall, cpu, faster])
    return table(header, rows)


def _limits(circuit: Circuit, found: Timings) -> str:
    peaks = measure_peaks()
    header = ["configuration", "synapse events/s", "operations/s", "bytes/s", "limit, s per s", f"{KERNEL}", "fraction"]
    rows = []
    for name, engines in found.items():
        done = limits.work(circuit, engines[KERNEL][0])
        least, taken = limits.limit(done, peaks), min(_values(engines[KERNEL], "cpu"))
        figures = [f"{v:.3g}" for v in (done.deliveries + done.events, done.operations, done.bytes, least, taken)]
        rows.append([name, *figures, f"{100 * least / taken:.0f} %"])
    return f"Limit of one core, counted in `benchmarks/engines/limits.py`: {peaks.text()}.\n\n{table(header, rows)}"


def _apart(found: Timings, skipped: list[str]) -> str:
    """What lies outside the simulation, and memory."""
    header = ["engine", "wiring, building and compiling, s (asynchronous)", "peak memory (MiB)"]
    rows = []
    for engine in next(iter(found.values())):
        timings = [t for engines in found.values() for t in engines[engine]]
        build = max(_values(found["asynchronous"][engine], "build_s"))
        rows.append([engine, f"{build:.2f}", f"{max(_values(timings, 'peak_mib')):.0f}"])
    return "\n\n".join([table(header, rows), *skipped])


def measure_draws(options: Options) -> str:
    """Prior draws with early stop: the whole cost of a campaign's simulation."""
    engines, skipped = options.present("brian2", *kernels())
    skipped.append(f"{STANDALONE}: cannot stop early, and compiles every network for half a minute.")
    wall: dict[str, list[float]] = {e: [] for e in engines}
    answers: dict[str, dict[str, Any]] = {}
    with workers(*engines) as group:
        for _ in range(options.repeats):
            for worker in group:
                answers[worker.engine] = _draws(worker, options)
                wall[worker.engine].append(answers[worker.engine]["wall_s"] / options.draws)
    header = ["engine", "wall s per draw", f"{KERNEL} is faster by", "outcomes", "peak memory (MiB)"]
    rows = []
    for engine, answer in answers.items():
        states = sorted(set(answer["outcomes"]))
        outcomes = ", ".join(f"{answer['outcomes'].count(s)} {s}" for s in states)
        rows.append(
            [engine, spread(wall[engine]), ratio(wall[engine], wall[KERNEL]), outcomes, f"{answer['peak_mib']:.0f}"]
        )
    return "\n\n".join([table(header, rows), *skipped])


def _draws(worker: Worker, options: Options) -> dict[str, Any]:
    answer = worker.ask(do="draws", circuit=CIRCUIT, draws=options.draws, duration=options.duration, seed=0)
    print(f"  {options.draws} draws, {worker.engine}: {answer['wall_s']:.2f} s, {answer['outcomes']}", flush=True)
    return answer


def _compile_published(engines: Sequence[str], repeats: int) -> None:
    """Leave the code of all repeats in Brian2's cache on disk.

    Brian2 numbers objects without a name, and code that names them differs: every network of a process is compiled
    anew, unless another process has made as many before.
    """
    if PUBLISHED in engines:
        with workers(PUBLISHED) as (worker,):
            for k in range(repeats):
                worker.ask(do="whole", circuit=CIRCUIT, duration=COMPILED, index=k + 1)


def measure_whole(options: Options) -> str:
    """Simulations from nothing, as a campaign runs them: a network drawn and built, then simulated."""
    engines, skipped = options.present(PUBLISHED, "brian2", *kernels())
    found: dict[str, list[dict[str, Any]]] = {e: [] for e in engines}
    _compile_published(engines, options.repeats)
    with workers(*engines) as group:
        for k in range(options.repeats):
            for worker in group:
                runs = ROW if worker.engine == KERNEL else 1
                answer = worker.ask(do="whole", circuit=CIRCUIT, duration=WHOLE, index=k + 1, runs=runs)
                print(f"  whole, {worker.engine}: {answer['cpu_s']:.3f} processor s, {answer['outcome']}", flush=True)
                found[worker.engine].append({key: answer[key] / WHOLE for key in ("wall_s", "cpu_s")})
    header = ["engine", "wall s per s", "processor s per s", f"{KERNEL} is faster by"]
    kernel = _values(found[KERNEL], "cpu_s")
    rows = [
        [engine, spread(_values(timings, "wall_s")), spread(_values(timings, "cpu_s")),
         ratio(_values(timings, "cpu_s"), kernel) + (f", target {TARGETS[RUNTIME]:g}" if engine == PUBLISHED else "")]
        for engine, timings in found.items()
    ]  # fmt: skip
    return "\n\n".join([table(header, rows), *skipped])
