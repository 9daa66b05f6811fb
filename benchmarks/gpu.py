"""Measure the engine kernel[cuda] on this machine's GPU, and compare it with kernel[numba].

    python benchmarks/gpu.py            print every part
    python benchmarks/gpu.py --write    also into benchmarks/RESULTS.md
    python benchmarks/gpu.py --tiny     sizes for a try in numba's simulator (NUMBA_ENABLE_CUDASIM=1)

It needs this repository, torch, numba, numba-cuda, numpy (below 2.4, as the package pins it: numba-cuda 0.30 calls
functions that later ones lack) and scipy; where Brian2 is missing (or with
`--without-brian2`) the circuits' translations are read from gpu_circuits.json. The first launch of each kernel
compiles it and is not timed, and neither is the start of the worker processes. Kernel time is the union of the
intervals between CUDA events around the launches.
Features are measured by worker processes on the CPU while the device simulates; none is computed on the device.
"""

import argparse
import datetime
import os
import platform
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = Path(__file__).with_name("RESULTS.md")
TITLE = "## Engine kernel[cuda]"
PARTS = ("equality", "check", "draws", "sizes", "rates", "resources")


@dataclass(frozen=True)
class Scale:
    """How much of everything.

    While the first batch is prepared and the results of the last one are built (256 and 1,024 simulations, some .5 s)
    no kernel runs: `check` must take several seconds for 90 % in the kernel. Prior draws end with the slowest of them,
    some seconds at 700 Hz, which is a tenth of what `draws` take at the rate asked for.
    """

    equal: int = 32
    equal_s: float = 1.0
    check: int = 8448
    check_s: float = 10.0
    draws: int = 50688
    draws_s: float = 20.0
    draws_limit_s: float = 90.0
    sizes: tuple[int, ...] = (500, 1000, 2000, 5000, 10000, 20000)
    threads: tuple[int | None, ...] = (None, 128, 256, 512, 1024)
    cells: int = 2000
    rate_sets: int = 32768
    rate_s: float = 10.0


TINY = Scale(equal=2, equal_s=0.01, check=3, check_s=0.004, draws=3, draws_s=0.004, sizes=(40, 60), threads=(None, 4),
             cells=60, rate_sets=3, rate_s=0.004)  # fmt: skip


def prepare_process(stand_in: bool) -> None:
    """Let this process do without Brian2 where asked to."""
    if stand_in:
        from benchmarks import without_brian2

        without_brian2.load()


def sized(cells: int, **defaults: float) -> Any:
    """adex_clustered of some size."""
    from sbi_circuits.circuit import get_circuit

    circuit = get_circuit("adex_clustered")
    constants = {**dict(circuit.constants), "n_total": str(cells)}
    return replace(circuit, constants=constants, defaults={**dict(circuit.defaults), **defaults})


def busy(launches: Iterable[Any]) -> float:
    """Length of the union of the intervals in which a kernel ran, seconds."""
    total, until = 0.0, -np.inf
    for launch in sorted(launches, key=lambda entry: entry.began):
        total += max(0.0, launch.ended - max(launch.began, until))
        until = max(until, launch.ended)
    return float(total)


def table(head: str, rows: Iterable[Iterable[object]]) -> list[str]:
    """A Markdown table."""
    columns = [c.strip() for c in head.split("|")]
    lines = [columns, *rows]
    first, *others = (f"| {' | '.join(map(str, line))} |" for line in lines)
    return [first, "|" + "---|" * len(columns), *others, ""]


def equality(scale: Scale) -> list[str]:
    """The CPU kernel and the CUDA kernel on the same simulations."""
    from sbi_circuits.circuit import Record
    from sbi_circuits.engines import Protocol
    from sbi_circuits.engines.kernel_cuda import CudaEngine
    from sbi_circuits.engines.kernel_numba import NumbaEngine

    circuit, rows = sized(min(scale.cells, 500)), []
    theta = np.tile(circuit.default_theta(), (scale.equal, 1))
    protocol = Protocol(scale.equal_s, record=Record(spikes=-1, counts=True, moments=True), early_stop=False)
    for precision in ("double", "single"):
        cpu = list(NumbaEngine(precision).run_batch(circuit, theta, protocol, 5, range(len(theta))))
        gpu = list(CudaEngine(precision).run_batch(circuit, theta, protocol, 5, range(len(theta))))
        again = list(CudaEngine(precision, batch=7).run_batch(circuit, theta, protocol, 5, range(len(theta))))
        pairs = [(a.recording, b.recording) for a, b in zip(cpu, gpu, strict=True)]
        same = sum(np.array_equal(a.times, b.times) and np.array_equal(a.offsets, b.offsets) for a, b in pairs)
        repeat = sum(np.array_equal(a.recording.times, b.recording.times) for a, b in zip(gpu, again, strict=True))
        spikes = [sum(len(r.times) for r in side) for side in zip(*pairs, strict=True)]
        first = [_first_difference(a, b) for a, b in pairs]
        rows.append((precision, f"{same} of {len(pairs)}", f"{min(first):.3f} s", f"{spikes[0]} / {spikes[1]}",
                     f"{repeat} of {len(pairs)}"))  # fmt: skip
    return [
        f"Equality with kernel[numba]: {scale.equal} simulations of {scale.equal_s:g} s, {min(scale.cells, 500)} "
        "neurons.",
        "",
        *table("precision | equal rasters | earliest difference | spikes CPU / GPU | equal in batches of 7", rows),
    ]


def _first_difference(a: Any, b: Any) -> float:
    """Until when two recordings have the same spikes, seconds."""
    ends = [a.t1]
    for unit in range(a.n_units):
        ends += sorted(set(a.unit(unit).tolist()) ^ set(b.unit(unit).tolist()))[:1]
    return float(min(ends))


def warm(seconds: float) -> int:
    """What a worker process does first: imports, a preparation, features of a recording; its number."""
    from sbi_circuits.circuit import Record
    from sbi_circuits.engines import Protocol
    from sbi_circuits.engines.cuda_prepare import prepare_all
    from sbi_circuits.engines.kernel_cuda import columns_of
    from sbi_circuits.recording import IntervalMoments, PopulationCounts, Recording

    circuit = sized(60)
    protocol = Protocol(1.0, record=Record(spikes=10, counts=True, moments=True))
    prepare_all(columns_of(circuit, True), circuit.default_theta()[None], protocol, 0, [0], np.float32)
    trains = np.sort(np.random.default_rng(0).random((10, 20)), axis=1)
    names = [p.name for p in circuit.populations]
    one = np.ones(10)
    measure(Recording.from_units(
        trains, 0.0, 1.0, groups=names[:1] * 10, moments={n: IntervalMoments(20 * one, one, one) for n in names},
        counts={n: PopulationCounts(np.ones(1000, dtype=np.int64), 10) for n in names},
    ))  # fmt: skip
    sleep(seconds)
    return os.getpid()


def start(executor: Executor, workers: int) -> None:
    """Wait until every worker process has started and done its imports."""
    seen: set[int] = set()
    while len(seen) < workers:
        seen |= {f.result() for f in [executor.submit(warm, 0.1) for _ in range(2 * workers)]}


def launches(engine: Any) -> tuple[Any, int]:
    """The largest launch but of simulations run again, and how many of those there were."""
    again = sum(launch.simulations for launch in engine.launches if launch.again)
    return max((x for x in engine.launches if not x.again), key=lambda x: x.blocks), again


def timed(engine: Any, circuit: Any, theta: np.ndarray, protocol: Any, seed: int) -> tuple[float, float, Counter]:
    """Wall seconds, kernel seconds and outcomes of a batch; the kernel is compiled before."""
    list(engine.run_batch(circuit, theta[:1], protocol, seed, [0]))
    engine.launches.clear()
    began, outcomes = perf_counter(), Counter()
    for simulation in engine.run_batch(circuit, theta, protocol, seed, range(len(theta))):
        outcomes[simulation.outcome.status] += 1
    return perf_counter() - began, busy(engine.launches), outcomes


def check(scale: Scale, executor: Executor | None) -> list[str]:
    """Simulated seconds per wall second at the check configuration, for several sizes of a block."""
    from sbi_circuits.circuit import Record
    from sbi_circuits.engines import Protocol
    from sbi_circuits.engines.kernel_cuda import CudaEngine

    circuit, rows = sized(scale.cells), []
    theta = np.tile(circuit.default_theta(), (scale.check, 1))
    protocol = Protocol(scale.check_s, record=Record(spikes=100, counts=True, moments=True), early_stop=False)
    for threads in scale.threads:
        engine = CudaEngine(threads=threads, executor=executor)
        wall, kernel, outcomes = timed(engine, circuit, theta, protocol, 1)
        simulated = scale.check * scale.check_s
        launch, again = launches(engine)
        rows.append((f"{launch.threads}{'' if threads else ' (chosen)'}", launch.blocks, launch.shared_bytes,
                     f"{simulated / wall:.0f}", f"{simulated / kernel if kernel else 0:.0f}",
                     f"{100 * kernel / wall:.0f} %", again, dict(outcomes)))  # fmt: skip
    return [
        f"Check configuration, {scale.cells} neurons, {scale.check} simulations of {scale.check_s:g} s (targets: "
        "10,000 simulated seconds a second, 90 % of the wall time in the kernel).",
        "",
        *table("threads | blocks | shared bytes | simulated s per wall s | per kernel s | in the kernel | run again | "
               "ended", rows),
    ]


def draws(scale: Scale, executor: Executor | None, workers: int) -> list[str]:
    """Prior draws with early stop, features measured by worker processes as simulations come; cut short where slow."""
    from numba import cuda

    from sbi_circuits.circuit import Record
    from sbi_circuits.engines import Protocol
    from sbi_circuits.engines.kernel_cuda import CudaEngine

    circuit = sized(scale.cells)
    theta = circuit.prior.sample(scale.draws, 0)
    protocol = Protocol(scale.draws_s, record=Record(spikes=100, counts=True, moments=True))
    engine = CudaEngine(executor=executor)
    list(engine.run_batch(circuit, theta[:1], protocol, 2, [0]))
    engine.launches.clear()
    began, outcomes = perf_counter(), Counter()
    simulations = engine.run_batch(circuit, theta, protocol, 2, range(len(theta)))
    for status in _measured(simulations, executor, 8 * workers):
        outcomes[status] += 1
        if perf_counter() - began > scale.draws_limit_s:
            break
    wall, measured, ended = perf_counter() - began, outcomes.total(), list(engine.launches)
    cuda.synchronize()  # what was under way when the time was up must not disturb the next measurement
    return [
        f"Prior draws with early stop: {scale.draws} draws of {scale.draws_s:g} s, or as many as end within "
        f"{scale.draws_limit_s:g} s, {scale.cells} neurons, features by {workers} processes (target: 1,500 a second).",
        "",
        *table("draws per s | draws | wall s | in the kernel | run again | outcomes",
               [(f"{measured / wall:.0f}", measured, f"{wall:.1f}", f"{100 * busy(ended) / wall:.0f} %",
                 sum(launch.simulations for launch in ended if launch.again), dict(outcomes))]),
    ]  # fmt: skip


def _measured(simulations: Iterator[Any], executor: Executor | None, most: int) -> Iterator[str]:
    """Outcomes, once features are measured; at most so many recordings wait."""
    waiting: deque[Any] = deque()
    for simulation in simulations:
        if simulation.recording is None:
            yield simulation.outcome.status
        elif executor is None:
            measure(simulation.recording)
            yield "ok"
        else:
            waiting.append(executor.submit(measure, simulation.recording))
            if len(waiting) > most:
                waiting.popleft().result()
                yield "ok"
    for future in waiting:
        future.result()
        yield "ok"


def measure(recording: Any) -> np.ndarray:
    """All features of a recording."""
    from sbi_circuits.features import FeatureSet

    values: np.ndarray = FeatureSet.of("isi", "bursts", "spectrum").measure(recording).values
    return values


def sizes(scale: Scale, executor: Executor | None) -> list[str]:
    """Scaling over the number of neurons; the in-degrees grow with it."""
    from sbi_circuits.circuit import Record
    from sbi_circuits.engines import Protocol
    from sbi_circuits.engines.kernel_cuda import CudaEngine

    rows = []
    for cells in scale.sizes:
        circuit = sized(cells)
        number = max(2, min(scale.check, int(scale.check * 2000 / cells)))
        seconds = scale.check_s * min(1.0, 2000 / cells)
        theta = np.tile(circuit.default_theta(), (number, 1))
        protocol = Protocol(seconds, record=Record(counts=True), early_stop=False)
        engine = CudaEngine(executor=executor)
        wall, kernel, _ = timed(engine, circuit, theta, protocol, 3)
        launch, again = launches(engine)
        rows.append((cells, launch.threads, launch.blocks, launch.shared_bytes, f"{number * seconds / wall:.0f}",
                     f"{100 * kernel / wall:.0f} %", again))  # fmt: skip
    head = "neurons | threads | blocks | shared bytes | simulated s per wall s | in the kernel | run again"
    return ["Sizes, check configuration.", "", *table(head, rows)]


def rates(scale: Scale) -> list[str]:
    """Rate circuits of one node, as many parameter sets as a device takes."""
    from benchmarks import gpu_rates

    compared, duration = min(scale.rate_sets, 64), min(scale.rate_s, 0.5)
    head, rows = gpu_rates.rates(scale.rate_sets, scale.rate_s)
    against, about = gpu_rates.peer(rows, scale.rate_sets, scale.rate_s)
    return [
        f"Rate circuits, one node, Heun's method with noise, dt 0.1 ms: {scale.rate_sets} parameter sets of "
        f"{scale.rate_s:g} s, preparation and recordings included, compiling not.",
        "",
        *table(" | ".join(head), rows),
        *table(" | ".join(gpu_rates.EQUALITY), gpu_rates.equality(compared, duration)),
        about,
        "",
        *(table(" | ".join(gpu_rates.PEER), against) if against else []),
    ]


def resources(scale: Scale) -> list[str]:
    """Registers and local memory of the compiled kernels."""
    from sbi_circuits.engines.cuda_device import SIMULATED
    from sbi_circuits.engines.kernel_cuda import load_kernel

    rows = []
    for single in (True, False):
        kernel = load_kernel(sized(scale.cells), single, True)
        for overload in [] if SIMULATED else kernel.overloads.values():
            rows.append(("single" if single else "double", overload.regs_per_thread, overload.local_mem_per_thread))
    return ["Kernels of adex_clustered, state in shared memory.", "",
            *table("precision | registers | local bytes per thread", rows)]  # fmt: skip


def machine() -> str:
    """Where and with what this ran."""
    from sbi_circuits.engines.cuda_device import SIMULATED

    parts = [f"{datetime.date.today()}", f"Python {platform.python_version()}"]
    for name in ("numba", "numba-cuda", "numpy", "torch"):
        try:
            parts.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            parts.append(f"{name} missing")
    if SIMULATED:
        return ", ".join(["numba's CUDA simulator (no timing means anything)", *parts])
    from numba import cuda

    device = cuda.get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else device.name
    free, total = cuda.current_context().get_memory_info()
    used = f"{(total - free) / 2**30:.1f} of {total / 2**30:.0f} GiB in use at the end"
    return ", ".join([str(name), f"{device.MULTIPROCESSOR_COUNT} SMs", f"{os.cpu_count()} CPU cores", used, *parts])


def write(text: str) -> None:
    """Put the section into RESULTS.md, in place of an earlier one."""
    before = RESULTS.read_text(encoding="utf-8")
    head, found, rest = before.partition(TITLE)
    tail = rest[rest.index("\n## ") :] if found and "\n## " in rest else "\n"
    RESULTS.write_text(head.rstrip("\n") + "\n\n" + text.rstrip("\n") + "\n" + tail, encoding="utf-8")


def require_device() -> None:
    """End with one line where there is nothing to measure."""
    from sbi_circuits.engines import get_engine
    from sbi_circuits.errors import SbiCircuitsError

    try:
        get_engine("kernel[cuda]")
    except SbiCircuitsError as error:
        sys.exit(f"gpu.py: {error}")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="sizes for a try in the simulator")
    parser.add_argument("--write", action="store_true", help="also into benchmarks/RESULTS.md")
    parser.add_argument("--without-brian2", action="store_true", help="read translations from gpu_circuits.json")
    workers = max((os.cpu_count() or 2) - 2, 1)
    parser.add_argument("--workers", type=int, default=workers, help="1 for this process only")
    parser.add_argument("--only", default=",".join(PARTS), help=f"of: {', '.join(PARTS)}")
    options = parser.parse_args()
    chosen = options.only.split(",")
    if not set(chosen) <= set(PARTS):
        parser.error(f"there is no part {min(set(chosen) - set(PARTS))!r}; valid parts: {', '.join(PARTS)}")
    stand_in = options.without_brian2 or find_spec("brian2") is None
    prepare_process(stand_in)
    require_device()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the worker processes
    scale = TINY if options.tiny else Scale()
    pool = ProcessPoolExecutor(options.workers, get_context("spawn"), partial(prepare_process, stand_in))
    with pool if options.workers > 1 else nullcontext() as executor:
        measures = dict(zip(PARTS, (
            lambda: equality(scale), lambda: check(scale, executor), lambda: draws(scale, executor, options.workers),
            lambda: sizes(scale, executor), lambda: rates(scale), lambda: resources(scale),
        ), strict=True))  # fmt: skip
        if executor is not None:
            start(executor, options.workers)
        lines = [line for name in chosen for line in measures[name]()]
    text = "\n".join([TITLE, f"`make bench-gpu`: {machine()}.", "", *lines])
    print(text)
    if options.write:
        write(text)


if __name__ == "__main__":
    main()
