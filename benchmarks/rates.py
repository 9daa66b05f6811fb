"""Rate circuits against VBI's numba engine: the same model, the same method, the same run.

    python -m benchmarks.rates --vbi /path/to/a/python/with/vbi [--write]

Wilson-Cowan and Jansen-Rit, one node, 10 s at dt 0.1 ms with Heun's method and noise, the signal kept at 1000 Hz.
VBI (0.4.4) may run in a Python of its own, because it wants other packages; each side is timed in processor seconds for
each parameter set, after a run that compiles. Both integrate the same equations: in the same run one simulation
without noise is compared, sample by sample.

What a core could do at most is counted as in `benchmarks/engines/limits.py`: the arithmetic of the update that the
kernel is generated from, 19 operations for an exponential, and 199 for each noise term (120 integer operations for
a block of Philox, of which one node uses two words, and 79 for the logarithm, root, sine and cosine); integer and
single-precision vector operations at the same rate. The state stays in the first cache, and a sample written every
tenth step is nothing beside the arithmetic, so that bandwidth is no limit.
"""

import argparse
import json
import os
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from time import process_time

import numpy as np

from benchmarks.engines.limits import REFRACTORY_TEST, operations
from benchmarks.engines.machine import description, measure_peaks
from sbi_circuits.circuit import Circuit, Record, get_circuit
from sbi_circuits.engines import Protocol
from sbi_circuits.engines.rate_numba import CompiledEngine
from sbi_circuits.engines.rate_program import rate_program
from sbi_circuits.engines.torch_engine import TorchEngine

DURATION, DT, REPEATS = 10.0, 1e-4, 3
SIGNALS = {"wilson_cowan": "E", "jansen_rit": "field"}
NORMAL = 199  # operations of a normal number, see above
RESULTS = Path(__file__).with_name("RESULTS.md")
TITLE = "## Rate circuits"

# Run by VBI's Python: prints one JSON line per model.
VBI = r"""
import json, sys, time, warnings
warnings.simplefilter("ignore")
import numpy as np
from vbi.models.numba.jansen_rit import JR_sde
from vbi.models.numba.wilson_cowan import WC_sde_numba
import vbi
duration, dt, repeats = (float(x) for x in sys.argv[1:4])
one = np.zeros((1, 1))
common = dict(weights=one, dt=1e3 * dt, t_cut=0.0, decimate=10, seed=1)
def wilson_cowan(t_end, noise):
    p = dict(common, t_end=t_end, P=1.25, noise_amp=noise, shift_sigmoid=True, k_e=1.0, k_i=1.0, RECORD_EI="E")
    sim = WC_sde_numba(p)
    return lambda: sim.run(x0=np.array([0.1, 0.05]), verbose=False)["E"]
def jansen_rit(t_end, noise):
    p = dict(common, t_end=t_end, mu=0.22, noise_amp=noise, G=0.0)
    sim = JR_sde(p)
    return lambda: sim.run(x0=np.array([0.1, 20.0, 15.0, 0.0, 0.0, 0.0]))["x"]
for name, make, noise in (("wilson_cowan", wilson_cowan, 0.01), ("jansen_rit", jansen_rit, 0.01)):
    make(50.0, noise)()
    run = make(1e3 * duration, noise)
    times = []
    for _ in range(int(repeats)):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    quiet = np.asarray(make(1000.0, 0.0)()).ravel()
    print(json.dumps({"name": name, "seconds": times, "quiet": quiet.tolist(), "version": vbi.__version__}))
"""


def vbi_times(python: str) -> dict[str, dict[str, object]]:
    """Seconds of each repeat, and a signal without noise, of VBI's two models."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    line = [python, "-c", VBI, str(DURATION), str(DT), str(REPEATS)]
    out = subprocess.run(line, capture_output=True, text=True, env=environment, cwd="/")
    if out.returncode:
        reason = (out.stderr.strip().splitlines() or ["no message"])[-1]
        sys.exit(f"VBI did not run in {python} ({reason}); pip install vbi==0.4.4 there, or name another with --vbi")
    found = [json.loads(text) for text in out.stdout.splitlines() if text.startswith("{")]
    return {entry["name"]: entry for entry in found}


def own_times(circuit: Circuit, engine: CompiledEngine | TorchEngine, sets: int, repeats: int = REPEATS) -> list[float]:
    """Processor seconds for each parameter set, preparation and recordings included."""
    draws = circuit.prior.to_unit(circuit.prior.sample(sets, 1))
    theta = circuit.prior.from_unit(np.clip(circuit.prior.to_unit(circuit.default_theta()) + 0.1 * (draws - 0.5), 0, 1))
    record = Record(counts=False, signals=(SIGNALS[circuit.name],))
    list(engine.run_batch(circuit, theta, Protocol(0.01, record=record, dt=DT), 0, range(sets)))
    times = []
    for _ in range(repeats):
        began = process_time()
        runs = list(engine.run_batch(circuit, theta, Protocol(DURATION, record=record, dt=DT), 0, range(sets)))
        times.append((process_time() - began) / sets)
        assert all(s.outcome.ok for s in runs)
    return times


def quiet_signal(circuit: Circuit) -> np.ndarray:
    """The signal without noise, 1 s."""
    values = {**dict(circuit.defaults), "sigma": 0.0}
    theta = np.array([values[n] for n in circuit.prior.names])
    protocol = Protocol(1.0, record=Record(counts=False, signals=(SIGNALS[circuit.name],)), dt=DT)
    recording = CompiledEngine("double").run(circuit, theta, protocol, 0, 0).recording
    assert recording is not None
    return recording.signals[SIGNALS[circuit.name]].values[0]


def least_ms(circuit: Circuit, operations_per_s: float) -> float:
    """Least milliseconds of one core for a parameter set, by counted operations."""
    (part,) = rate_program(circuit, True, "kernel[numba]").parts
    counted = operations(part) - REFRACTORY_TEST + NORMAL * len(part.noise)
    return 1e3 * counted * DURATION / DT / operations_per_s


def measure(python: str, sets: int, double_sets: int, torch_sets: int) -> str:
    """The table of one run; an engine that gets no parameter sets is left out."""
    theirs, peak = vbi_times(python), measure_peaks().operations
    lines = ["| circuit | engine | ms per parameter set, median (minimum) | VBI takes longer by |",
             "| --- | --- | --- | --- |"]  # fmt: skip
    same, limits = [], []
    for name in SIGNALS:
        circuit, entry = get_circuit(name), theirs[name]
        reference = np.array(entry["seconds"])
        ours = quiet_signal(circuit)[1:]
        # VBI samples after a step, this project before it.
        other = np.interp(np.arange(1, 1000) * 1e-3, np.arange(1000) * 1e-3 + DT, np.array(entry["quiet"])[:1000])
        same.append(f"{name} {np.abs(ours[5:] - other[5:]).max() / np.abs(ours).max():.1e}")
        lines.append(_row(name, f"VBI {entry['version']}, numba", reference, reference))
        engines = [
            ("kernel[numba], single", CompiledEngine("single"), sets, REPEATS),
            ("kernel[numba], double", CompiledEngine("double"), double_sets, REPEATS),
            ("torch, double", TorchEngine("double", "cpu"), torch_sets, 1),
        ]
        engines = [entry for entry in engines if entry[2]]
        times = [np.array(own_times(circuit, e, n, r)) for _, e, n, r in engines]
        lines += [_row(name, label, t, reference) for (label, *_), t in zip(engines, times, strict=True)]
        least = least_ms(circuit, peak)
        limits.append(f"{name} {least:.3g} ms, of which the kernel takes {1e3 * np.median(times[0]) / least:.1f} times "
                      f"as long ({1e-1 * least / np.median(times[0]):.0f} % of the limit)")  # fmt: skip
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    about = (
        f"One node, {DURATION:g} s at dt {1e3 * DT:g} ms, Heun's method with noise, signal at 1000 Hz, one core; "
        f"{sets} parameter sets (in double precision {double_sets}, torch {torch_sets or 'not run'}), preparation and "
        f"recordings included, compiling not. Processor time, {REPEATS} repeats (torch 1). Largest difference of the "
        "two projects' signals without noise, relative: "
        f"{', '.join(same)}. {date.today()}, {description()}, torch {version('torch')}; load average {load}."
    )
    limit = (
        f"Limit of one core in single precision ({peak / 1e9:.0f} Gop/s measured, operations counted in "
        f"`benchmarks/rates.py`): {'; '.join(limits)}."
    )
    return f"{about}\n\n" + "\n".join(lines) + f"\n\n{limit}"


def _row(name: str, engine: str, seconds: np.ndarray, reference: np.ndarray) -> str:
    median, least = 1e3 * float(np.median(seconds)), 1e3 * float(seconds.min())
    ratio, best = float(np.median(reference)) * 1e3 / median, float(reference.min()) * 1e3 / least
    return f"| {name} | {engine} | {median:.3g} ({least:.3g}) | {ratio:.0f} ({best:.0f}) |"


def write_part(text: str) -> None:
    """Put the table into RESULTS.md, in place of the last one."""
    results = RESULTS.read_text(encoding="utf-8")
    before, found, after = results.partition(f"{TITLE}\n")
    rest = after.partition("\n## ")
    tail = f"\n## {rest[2]}" if found and rest[1] else "\n"
    temporary = RESULTS.with_suffix(".tmp")
    temporary.write_text(f"{before.rstrip()}\n\n{TITLE}\n{text}\n{tail}".rstrip() + "\n", encoding="utf-8")
    os.replace(temporary, RESULTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vbi", default=sys.executable, help="a Python that has vbi==0.4.4")
    parser.add_argument("--sets", type=int, default=2048)
    parser.add_argument("--double-sets", type=int, default=2048)
    parser.add_argument("--torch-sets", type=int, default=1024)
    parser.add_argument("--write", action="store_true", help="into benchmarks/RESULTS.md")
    chosen = parser.parse_args()
    text = measure(chosen.vbi, chosen.sets, chosen.double_sets, chosen.torch_sets)
    print(text)
    if chosen.write:
        write_part(text)


if __name__ == "__main__":
    main()
