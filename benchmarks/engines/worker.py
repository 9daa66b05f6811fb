"""One engine in a process of its own: tasks as JSON lines on standard input, answers as JSON lines on standard output.

So every engine has the machine's memory counted for itself, and two workers are two cores. A task names what to do:
`simulate` times one simulation, `draws` a list of configurations with early stop, `fma` a loop of multiply-adds.
"""

import dataclasses
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

# One core, whatever the libraries would like to use.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# The answers have standard output for themselves: what Brian2 or a compiler prints goes to standard error.
_ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

import brian2  # noqa: E402
import numpy as np  # noqa: E402
from brian2.devices.device import get_device  # noqa: E402

from benchmarks.engines.machine import multiply_adds  # noqa: E402
from benchmarks.engines.nest_client import activity  # noqa: E402
from benchmarks.engines.published import run as run_published  # noqa: E402
from sbi_circuits.circuit import Circuit, Record, get_circuit  # noqa: E402
from sbi_circuits.engines import Protocol, Simulation, get_engine, kernel_numba  # noqa: E402
from sbi_circuits.engines.brian2_engine import build_model, reduce_spikes  # noqa: E402
from sbi_circuits.engines.brian2_standalone import run_standalone  # noqa: E402
from sbi_circuits.engines.setup import Setup, prepare  # noqa: E402
from sbi_circuits.recording import Outcome  # noqa: E402

RECORD = Record(spikes=100, counts=True, moments=True)  # what a campaign keeps
RUNTIME, STANDALONE = "brian2 runtime", "brian2 standalone"
KERNEL, CUDA = "kernel[numba]", "kernel[cuda]"
PUBLISHED = "brian2 as published"  # drawn, built and run as its authors do
IN_A_ROW = 5  # runs of a simulation by a kernel, which takes hundredths of what Brian2 does
BATCH = 1056  # simulations at once on a device: eight on each multiprocessor of an H200
Answer = dict[str, Any]


def simulate(engine: str, task: Answer) -> Answer:
    """Time one simulation without early stop.

    Returns:
        wall_s and cpu_s of the simulation alone, build_s of wiring and compiling, counts of what was simulated.
    """
    circuit, theta = _circuit(task), np.array(task["theta"])
    protocol = Protocol(task["duration"], warmup=task.get("warmup", 0.0), record=RECORD, early_stop=False)
    timing, simulation = _RUNS[engine](circuit, theta, protocol, task["index"])
    setup = prepare(circuit, theta, protocol, 0, task["index"])
    return {"peak_mib": _peak(), **timing, **_counted(simulation, setup)}


def _circuit(task: Answer) -> Circuit:
    circuit = get_circuit(task["circuit"])
    constants: Any = {**dict(circuit.constants), **task.get("constants", {})}
    return dataclasses.replace(circuit, constants=constants)


def _runtime(circuit: Circuit, theta: np.ndarray, protocol: Protocol, index: int) -> tuple[Answer, Simulation]:
    """Brian2 in runtime mode, all code in Cython; the first step, which compiles, belongs to the building."""
    brian2.prefs.codegen.target = "cython"
    get_device().seed(index)
    setup = prepare(circuit, theta, protocol, 0, index)
    began = time.perf_counter()
    model = build_model(circuit, setup)
    model.run(1)
    build_s = time.perf_counter() - began
    clock, began = time.process_time(), time.perf_counter()
    model.run(setup.steps - 1)
    wall, cpu = time.perf_counter() - began, time.process_time() - clock
    recording = reduce_spikes(*model.spikes(), setup, protocol)
    return _timing(build_s, wall, cpu), Simulation(index, Outcome("ok"), recording, wall)


_PROGRAMS: dict[tuple[Any, ...], tuple[Path, Simulation, float]] = {}
_FOLDER = tempfile.TemporaryDirectory(prefix="bench-standalone-")


def _standalone(circuit: Circuit, theta: np.ndarray, protocol: Protocol, index: int) -> tuple[Answer, Simulation]:
    """Brian2's generated C++ program, one thread. Compiled once per network; a repeat runs it again.

    The program reports the processor time of its loop; synapse creation is not in it, but in the peak memory.
    """
    key = (circuit.digest, tuple(theta), protocol, index)
    if key not in _PROGRAMS:
        folder = Path(_FOLDER.name) / str(len(_PROGRAMS))
        simulation, timings = run_standalone(circuit, theta, protocol, 0, index, folder)
        _PROGRAMS[key] = (folder, simulation, timings.compile_s)
    folder, simulation, compile_s = _PROGRAMS[key]
    began = time.perf_counter()
    program = subprocess.Popen(["./main"], cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(program.pid, 0)
    wall = time.perf_counter() - began
    program.returncode = os.waitstatus_to_exitcode(status)
    if program.returncode != 0:
        raise RuntimeError(f"Brian2's program in {folder} ended with status {program.returncode}")
    loop = float((folder / "results" / "last_run_info.txt").read_text().split()[0])
    # The wall time of the loop is not reported; it is taken to be stretched as that of the whole program is.
    stretch = max(wall / (usage.ru_utime + usage.ru_stime), 1.0)
    return {**_timing(compile_s, loop * stretch, loop), "peak_mib": usage.ru_maxrss / 1024}, simulation


def _compiled(circuit: Circuit, theta: np.ndarray, protocol: Protocol, index: int) -> tuple[Answer, Simulation]:
    """`kernel[numba]`, compiled before it is timed; as of Brian2 the loop over time steps is timed, all else apart.

    The mean of `IN_A_ROW` runs of the same simulation, as one is over in a moment in which the machine may be busy.
    """
    engine = get_engine(KERNEL)
    engine.run(circuit, theta, dataclasses.replace(protocol, duration=0.01, warmup=0.0), 0, index)
    with _loop_timed() as loop:
        began = time.perf_counter()
        for _ in range(IN_A_ROW):
            simulation = engine.run(circuit, theta, protocol, 0, index)
        build_s = time.perf_counter() - began - loop[0]
    return _timing(*(seconds / IN_A_ROW for seconds in (build_s, *loop))), simulation


@contextmanager
def _loop_timed() -> Iterator[list[float]]:
    """Wall and processor seconds that compiled kernels run for, in the list given."""
    load, spent = kernel_numba.load_kernel, [0.0, 0.0]

    def timed(*arguments: Any) -> Any:
        kernel, *rest = load(*arguments)

        def run(**arrays: Any) -> Any:
            clock, began = time.process_time(), time.perf_counter()
            result = kernel(**arrays)
            spent[0] += time.perf_counter() - began
            spent[1] += time.process_time() - clock
            return result

        return run, *rest

    with mock.patch.object(kernel_numba, "load_kernel", timed):
        yield spent


def _device(circuit: Circuit, theta: np.ndarray, protocol: Protocol, index: int) -> tuple[Answer, Simulation]:
    """Seconds of one of `BATCH` simulations at once, wiring included: a device is not made for a single one."""
    engine: Any = get_engine(CUDA)
    engine.run(circuit, theta, dataclasses.replace(protocol, duration=0.01, warmup=0.0), 0, index)
    clock, began = time.process_time(), time.perf_counter()
    batch = list(engine.run_batch(circuit, np.tile(theta, (BATCH, 1)), protocol, 0, np.arange(BATCH)))
    wall, cpu = time.perf_counter() - began, time.process_time() - clock
    return _timing(0.0, wall / BATCH, cpu / BATCH), batch[0]


_RUNS = {RUNTIME: _runtime, STANDALONE: _standalone, KERNEL: _compiled, CUDA: _device}


def _timing(build_s: float, wall: float, cpu: float) -> Answer:
    return {"build_s": build_s, "wall_s": wall, "cpu_s": cpu}


def _counted(simulation: Simulation, setup: Setup) -> Answer:
    """Rates, and how often neurons, synapses and Poisson sources acted per simulated second."""
    recording = simulation.recording
    if recording is None:
        raise RuntimeError(f"simulation {simulation.index}: {simulation.outcome}")
    spikes = {name: m.spikes for name, m in recording.moments.items()}
    deliveries = sum(float(np.diff(s.indptr, axis=1).sum(0) @ spikes[s.source]) for s in setup.synapses)
    moments = activity(simulation)
    first = setup.cells[0].population.name
    return {
        "rate": float(spikes[first].mean() / recording.duration), "mean_rate": moments.rate, "cv": moments.cv,
        "neurons": setup.total_cells, "synapses": sum(len(s.targets) for s in setup.synapses),
        "deliveries": deliveries / recording.duration, "steps": round(1 / setup.dt),
        "poisson": sum(p.rate * p.sources * p.driven for p in setup.poisson),
        "populations": [c.size for c in setup.cells],
    }  # fmt: skip


def draws(engine: str, task: Answer) -> Answer:
    """Whole cost of configurations one after another, with early stop: wiring, building, everything but compiling."""
    circuit, runner = _circuit(task), get_engine(engine)
    protocol = Protocol(task["duration"], record=RECORD)
    rows = circuit.prior.sample(task["draws"], task["seed"])
    runner.run(circuit, circuit.default_theta(), dataclasses.replace(protocol, duration=0.01), 0, 0)
    clock, began = time.process_time(), time.perf_counter()
    outcomes = [runner.run(circuit, row, protocol, task["seed"], k).outcome.status for k, row in enumerate(rows)]
    wall, cpu = time.perf_counter() - began, time.process_time() - clock
    return {"wall_s": wall, "cpu_s": cpu, "outcomes": outcomes, "peak_mib": _peak()}


def whole(engine: str, task: Answer) -> Answer:
    """Whole cost of the check configuration on a network of its own: wiring, building, everything but compiling.

    The answer is the mean of as many in a row as the task asks for.
    """
    if engine == PUBLISHED:
        return _published(task)
    circuit, runner = _circuit(task), get_engine(engine)
    protocol, theta = Protocol(task["duration"], record=RECORD), circuit.default_theta()
    runner.run(circuit, theta, dataclasses.replace(protocol, duration=0.01), 0, 0)
    runs = task["runs"]
    clock, began = time.process_time(), time.perf_counter()
    for k in range(runs):
        outcome = runner.run(circuit, theta, protocol, k, task["index"]).outcome.status
    wall, cpu = time.perf_counter() - began, time.process_time() - clock
    return {"wall_s": wall / runs, "cpu_s": cpu / runs, "outcome": outcome}


def _published(task: Answer) -> Answer:
    brian2.prefs.codegen.target = "cython"
    run_published(0, 0.01)
    gc.collect()
    clock, began = time.process_time(), time.perf_counter()
    rate = run_published(task["index"], task["duration"])
    wall, cpu = time.perf_counter() - began, time.process_time() - clock
    return {"wall_s": wall, "cpu_s": cpu, "outcome": f"{rate:.1f} Hz"}


def fma(engine: str, task: Answer) -> Answer:
    """Wall seconds of a fixed number of multiply-adds, which use nothing but the core itself."""
    return {"wall_s": multiply_adds(task["rounds"])}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    engine = sys.argv[1]
    actions = {"simulate": simulate, "draws": draws, "whole": whole, "fma": fma}
    for line in sys.stdin:
        task = json.loads(line)
        try:
            answer = actions[task["do"]](engine, task)
        except Exception as error:  # noqa: BLE001  # the parent reports it and goes on with the other engines
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=_ANSWERS, flush=True)


if __name__ == "__main__":
    main()
