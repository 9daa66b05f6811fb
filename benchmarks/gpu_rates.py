"""Rate circuits on the engine kernel[cuda]: a part of `benchmarks/gpu.py`.

Wilson-Cowan and Jansen-Rit as in `benchmarks/rates.py`: one node, Heun's method with noise at dt 0.1 ms, the signal
kept at 1000 Hz. Their state stays in registers, so that what bounds them is instructions, not bandwidth: the bytes a
second are those of the samples they write, given as a share of what a copy on the device moves in the same run.

VBI's CuPy engine (0.4.4) runs the same two models in the same process where vbi and cupy are installed; where they are
not, the section says so. It computes a step of all parameter sets by some 30 launches, and so takes about as long for
one as for thousands: both sides get the same number. `VBI_ENGINE=cpu` runs its code on NumPy, to try this file.
"""

import os
import tempfile
import warnings
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import numpy as np

SIGNALS = {"wilson_cowan": "E", "jansen_rit": "field"}
DT = 1e-4


def near_default(circuit: Any, sets: int) -> np.ndarray:
    """Parameter sets around the default, (sets, P)."""
    draws = circuit.prior.to_unit(circuit.prior.sample(sets, 1))
    middle = circuit.prior.to_unit(circuit.default_theta())
    return np.asarray(circuit.prior.from_unit(np.clip(middle + 0.1 * (draws - 0.5), 0, 1)))


def protocol_of(name: str, duration: float) -> Any:
    """Only the signal is kept."""
    from sbi_circuits.circuit import Record
    from sbi_circuits.engines import Protocol

    return Protocol(duration, record=Record(counts=False, signals=(SIGNALS[name],)), dt=DT)


def copied_bytes(size: int = 2**30, repeats: int = 5) -> float:
    """Bytes a second that a copy on the device reads and writes; 0 in numba's simulator."""
    from numba import cuda

    from sbi_circuits.engines.cuda_device import SIMULATED

    if SIMULATED:
        return 0.0
    source, target = (cuda.device_array(size, np.uint8) for _ in range(2))
    target.copy_to_device(source)
    cuda.synchronize()
    began = perf_counter()
    for _ in range(repeats):
        target.copy_to_device(source)
    cuda.synchronize()
    return 2 * size * repeats / (perf_counter() - began)


def measure(name: str, precision: str, sets: int, duration: float, copied: float) -> tuple[object, ...]:
    """One row: wall and kernel time of a parameter set, steps and bytes a second of the kernel."""
    from sbi_circuits.circuit import get_circuit
    from sbi_circuits.engines.kernel_cuda import CudaEngine

    circuit, engine = get_circuit(name), CudaEngine(precision)
    theta, protocol = near_default(circuit, sets), protocol_of(name, duration)
    list(engine.run_batch(circuit, theta[:1], protocol, 0, [0]))  # compiles
    engine.launches.clear()
    began = perf_counter()
    ok = sum(s.outcome.ok for s in engine.run_batch(circuit, theta, protocol, 0, range(sets)))
    wall = perf_counter() - began
    kernel = sum(launch.ended - launch.began for launch in engine.launches)
    steps, size = sets * duration / DT, 4 if precision == "single" else 8
    per_s = f"{steps / kernel:.2e}" if kernel else "-"
    written = sets * duration * 1000 * size / kernel if kernel else 0.0
    moved = f"{written / 1e9:.1f} ({written / copied:.1%})" if kernel and copied else "-"
    return (name, precision, f"{ok} of {sets}", f"{1e3 * wall / sets:.3g}", f"{1e3 * kernel / sets:.3g}", per_s, moved)


def equality(sets: int, duration: float) -> Iterable[tuple[object, ...]]:
    """Largest difference from kernel[numba] in double precision, relative to the signal's largest value."""
    from sbi_circuits.circuit import get_circuit
    from sbi_circuits.engines.kernel_cuda import CudaEngine
    from sbi_circuits.engines.rate_numba import CompiledEngine

    for name, signal in SIGNALS.items():
        circuit, protocol = get_circuit(name), protocol_of(name, duration)
        theta, values = near_default(circuit, sets), []
        for engine in (CompiledEngine("double"), CudaEngine("double"), CudaEngine("single")):
            runs = list(engine.run_batch(circuit, theta, protocol, 5, range(sets)))
            values.append(np.array([r.recording.signals[signal].values[0] for r in runs if r.recording is not None]))
        exact, double, single = values
        scale = np.abs(exact).max()
        yield (name, sets, f"{np.abs(double - exact).max() / scale:.1e}", f"{np.abs(single - exact).max() / scale:.1e}")


def lacking() -> list[str]:
    """Packages that VBI's CuPy engine needs and that are not here."""
    wanted = ("vbi",) if os.environ.get("VBI_ENGINE") == "cpu" else ("vbi", "cupy")
    return [name for name in wanted if find_spec(name) is None]


def _vbi_wilson_cowan(sets: int, duration: float, engine: str, folder: str) -> Callable[[], np.ndarray]:
    model = import_module("vbi.models.cupy.wilson_cowan").WC_sde(dict(
        weights=np.zeros((1, 1)), dt=1e3 * DT, t_end=1e3 * duration, t_cut=0.0, decimate=10, seed=1, num_sim=sets,
        engine=engine, P=1.25, noise_amp=0.01, shift_sigmoid=True, k_e=1.0, k_i=1.0, RECORD_EI="E", output=folder,
    ))  # fmt: skip
    return lambda: np.asarray(model.run(verbose=False)["E"])


def _vbi_jansen_rit(sets: int, duration: float, engine: str, folder: str) -> Callable[[], np.ndarray]:
    model = import_module("vbi.models.cupy.jansen_rit").JR_sde(dict(
        weights=np.zeros((1, 1)), dt=1e3 * DT, t_end=1e3 * duration, t_cut=0.0, decimate=10, seed=1, num_sim=sets,
        engine=engine, mu=0.22, noise_amp=0.01, G=0.0,
    ))  # fmt: skip
    return lambda: np.asarray(model.run()["x"])


VBI = {"wilson_cowan": _vbi_wilson_cowan, "jansen_rit": _vbi_jansen_rit}


def vbi_seconds(name: str, sets: int, duration: float) -> float:
    """Wall seconds of VBI's CuPy engine for all parameter sets, recordings included, compiling not."""
    engine = os.environ.get("VBI_ENGINE", "gpu")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, of other packages' names
        VBI[name](sets, 20 * DT, engine, folder)()
        run = VBI[name](sets, duration, engine, folder)
        began = perf_counter()
        values = run()
        seconds = perf_counter() - began
    assert values.shape[-1] == sets and np.isfinite(values).all()
    return seconds


def peer(own: Iterable[tuple[object, ...]], sets: int, duration: float) -> tuple[list[Any], str]:
    """Rows of a comparison with VBI's CuPy engine, and a line that says what it is of, or why there is none.

    Args:
        own: rows of `measure`.
        sets: parameter sets of VBI's run.
        duration: of each, s.
    """
    if absent := lacking():
        return [], f"VBI's CuPy engine was NOT run: {' and '.join(absent)} not installed here; no ratio is known."
    try:
        seconds = {name: vbi_seconds(name, sets, duration) for name in SIGNALS}
    except Exception as error:  # what went before took long, and is not to be lost
        return [], f"VBI's CuPy engine FAILED ({type(error).__name__}: {error}); no ratio is known."
    rows = []
    for name in SIGNALS:
        theirs = 1e3 * seconds[name] / sets
        for circuit, precision, _, ours, *_ in own:
            if circuit == name:
                rows.append((name, precision, f"{theirs:.3g}", ours, f"{theirs / float(str(ours)):.1f}"))
    on_host = os.environ.get("VBI_ENGINE") == "cpu"
    where = "NumPy in place of CuPy" if on_host else f"CuPy {import_module('cupy').__version__}"
    return rows, f"VBI {version('vbi')}, {where}, double precision, {sets} parameter sets (target: 10 times)."


def rates(sets: int, duration: float) -> tuple[list[str], list[Any]]:
    """Head and rows of the times of both circuits."""
    copied = copied_bytes()
    rows = [measure(name, precision, sets, duration, copied) for name in SIGNALS for precision in ("single", "double")]
    head = ["circuit", "precision", "ok", "ms per parameter set", "of it the kernel", "steps per s of the kernel",
            "GB written per s of it (share of a copy's bytes)"]  # fmt: skip
    return head, rows


EQUALITY = ["circuit", "simulations", "double against kernel[numba]", "single against it"]
PEER = ["circuit", "precision", "VBI, ms per parameter set", "kernel[cuda]", "VBI takes longer by"]
