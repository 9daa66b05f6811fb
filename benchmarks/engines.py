"""Time every engine on the same circuit: the check configuration of `adex_clustered`, in one run on one core.

    python benchmarks/engines.py            print the table
    python benchmarks/engines.py --write    also write it into benchmarks/RESULTS.md

Seconds are processor seconds of the simulation, per second of simulated time. Brian2's building of networks,
drawing of synapses and compiling are left out; the kernel's drawing of synapses is included. All engines
simulate the same networks for the same time, because the rate falls over the first seconds and costs with it.
Repeats are interleaved, so that another load on the machine meets all engines alike.
"""

import argparse
import datetime
import os
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

# One core, whatever the libraries would like to use.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import brian2  # noqa: E402
import numpy as np  # noqa: E402
from brian2.devices.device import get_device  # noqa: E402

from sbi_circuits.circuit import Circuit, Record, get_circuit  # noqa: E402
from sbi_circuits.engines import Protocol, get_engine  # noqa: E402
from sbi_circuits.engines.brian2_engine import build_model  # noqa: E402
from sbi_circuits.engines.brian2_standalone import run_standalone  # noqa: E402
from sbi_circuits.engines.setup import prepare  # noqa: E402

RESULTS = Path(__file__).with_name("RESULTS.md")
HEADING = "## Engines"
RECORD = Record(spikes=100, counts=True, moments=True)
RUNTIME, STANDALONE = "Brian2, runtime (Cython)", "Brian2, C++ standalone, one thread"
KERNEL = "kernel[numba]"
TARGETS = {RUNTIME: 30.0, STANDALONE: 3.0}  # how many times faster the kernel is to be


@dataclass(frozen=True)
class Timing:
    """Processor seconds of one simulation of `simulated` seconds, and what it took apart from that."""

    simulated: float
    seconds: float
    rate: float
    note: str = ""

    @property
    def cost(self) -> float:
        return self.seconds / self.simulated


def protocol(duration: float) -> Protocol:
    """Everything a campaign keeps, without the early stop."""
    return Protocol(duration, record=RECORD, early_stop=False)


def runtime(circuit: Circuit, theta: np.ndarray, duration: float, index: int) -> Timing:
    """Brian2 in runtime mode; the first step, which compiles, is not timed."""
    brian2.prefs.codegen.target = "cython"
    get_device().seed(index)
    setup = prepare(circuit, theta, protocol(duration), 0, index)
    began = time.perf_counter()
    model = build_model(circuit, setup)
    model.run(1)
    compiled = time.perf_counter()
    clock = time.process_time()
    model.run(setup.steps - 1)
    seconds = time.process_time() - clock
    cells = model.spikes()[1]
    excitatory = setup.cells[0].size
    rate = np.count_nonzero(cells < excitatory) / excitatory / duration
    return Timing(duration, seconds, rate, f"{compiled - began:.0f} s to build and compile")


def standalone(circuit: Circuit, theta: np.ndarray, duration: float, index: int) -> Timing:
    """Brian2's generated C++ program; it reports the processor time of its simulation loop."""
    with tempfile.TemporaryDirectory() as folder:
        simulation, timings = run_standalone(circuit, theta, protocol(duration), 0, index, Path(folder))
    assert simulation.recording is not None
    counts = simulation.recording.counts["exc"]
    rate = counts.values.sum() / counts.size / duration
    return Timing(duration, timings.simulation_s[0], rate, f"{timings.compile_s:.0f} s to compile")


def kernel(circuit: Circuit, theta: np.ndarray, duration: float, index: int) -> Timing:
    """The whole run of the kernel, the drawing of its synapses included."""
    engine = get_engine(KERNEL)
    engine.run(circuit, theta, protocol(0.01), 0, index)
    clock = time.process_time()
    simulation = engine.run(circuit, theta, protocol(duration), 0, index)
    seconds = time.process_time() - clock
    assert simulation.recording is not None
    counts = simulation.recording.counts["exc"]
    return Timing(duration, seconds, counts.values.sum() / counts.size / duration, "synapses included")


def measure(duration: float, repeats: int) -> dict[str, list[Timing]]:
    """Time all engines in turn, `repeats` times; repeat k simulates the same network everywhere."""
    circuit = get_circuit("adex_clustered")
    theta = circuit.default_theta()
    runs: dict[str, Callable[[Circuit, np.ndarray, float, int], Timing]] = {
        RUNTIME: runtime, STANDALONE: standalone, KERNEL: kernel,
    }  # fmt: skip
    found: dict[str, list[Timing]] = {name: [] for name in runs}
    for k in range(repeats):
        for name, run in runs.items():
            found[name].append(run(circuit, theta, duration, k))
            timing = found[name][-1]
            figures = f"{timing.cost:.4f} s per s, {timing.rate:.1f} Hz, {timing.note}"
            print(f"  repeat {k + 1}, {name}: {figures}", flush=True)
    return found


def table(found: dict[str, list[Timing]]) -> str:
    """The medians as Markdown, with the ratio of each engine to the kernel."""
    cost = {name: statistics.median(t.cost for t in timings) for name, timings in found.items()}
    lines = [
        "| engine | s per simulated s (median) | range | kernel is faster by | rate (Hz) | apart |",
        "|---|---|---|---|---|---|",
    ]
    for name, timings in found.items():
        costs = [t.cost for t in timings]
        target = f" (target {TARGETS[name]:g})" if name in TARGETS else ""
        ratio = f"{cost[name] / cost[KERNEL]:.1f}{target}"
        rate = statistics.mean(t.rate for t in timings)
        lines.append(
            f"| {name} | {cost[name]:.4f} | {min(costs):.4f}-{max(costs):.4f} | {ratio} | {rate:.1f} "
            f"| {timings[-1].note} |"
        )
    return "\n".join(lines)


def machine() -> str:
    """Processor, cores and versions, in one line."""
    packages = ", ".join(f"{p} {version(p)}" for p in ("brian2", "numba", "numpy"))
    return f"{_processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, {packages}"


def load() -> str:
    """How many processes want to run: above the number of cores, the figures are those of a busy machine."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return match[1].strip() if match else platform.processor() or platform.machine()


def write(section: str) -> None:
    """Put the section into RESULTS.md in place of the one that is there."""
    text = RESULTS.read_text() if RESULTS.exists() else "# Measured\n"
    before, _, rest = text.partition(f"{HEADING}\n")
    after = rest[rest.index("\n## ") + 1 :] if "\n## " in rest else ""
    content = f"{before.rstrip()}\n\n{section.rstrip()}\n" + (f"\n{after}" if after else "")
    temporary = RESULTS.with_suffix(".tmp")
    temporary.write_text(content)
    os.replace(temporary, RESULTS)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time every engine on the same circuit.")
    add = parser.add_argument
    add("--write", action="store_true", help=f"write the table into {RESULTS.name}")
    add("--repeats", type=int, default=3)
    add("--duration", type=float, default=20.0, help="simulated seconds, the same for every engine")
    options = parser.parse_args()
    print(machine(), flush=True)
    busy = load()
    result = table(measure(options.duration, options.repeats))
    print(result)
    if options.write:
        write(
            f"{HEADING}\n`make bench-engines`, {datetime.date.today()}. The check configuration of "
            f"`adex_clustered` (2000 neurons, about 253,000 synapses), one core, {options.repeats} "
            f"interleaved repeats of {options.duration:g} simulated seconds. Processor seconds of the "
            f"simulation.\n\n{result}\n\n{machine()}; load average {busy} before and {load()} after.\n"
        )
        print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
