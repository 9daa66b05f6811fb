"""Rate circuits on the engine kernel[cuda]: a part of `benchmarks/gpu.py`.

Wilson-Cowan and Jansen-Rit as in `benchmarks/rates.py`: one node, Heun's method with noise at dt 0.1 ms, the signal
kept at 1000 Hz. Their state stays in registers, so that what bounds them is instructions, not bandwidth: the bytes a
second are those of the samples they write. VBI's CuPy engine is not run; its own figures are of other devices.
"""

from collections.abc import Iterable
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


def measure(name: str, precision: str, sets: int, duration: float) -> tuple[object, ...]:
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
    moved = f"{sets * duration * 1000 * size / kernel / 1e9:.1f}" if kernel else "-"
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


def rates(sets: int, duration: float, compared: int, compared_s: float) -> tuple[list[str], list[Any], list[str],
                                                                                 list[Any], str]:  # fmt: skip
    """Heads and rows of two tables, and what they are of."""
    rows = [measure(name, precision, sets, duration) for name in SIGNALS for precision in ("single", "double")]
    head = ["circuit", "precision", "ok", "ms per parameter set", "of it the kernel", "steps per s of the kernel",
            "GB written per s of it"]  # fmt: skip
    about = f"{sets} parameter sets of {duration:g} s, preparation and recordings included, compiling not"
    return head, rows, ["circuit", "simulations", "double against kernel[numba]", "single against it"], list(
        equality(compared, compared_s)
    ), about
