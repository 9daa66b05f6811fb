"""Engines: what runs a circuit. Brian2 is the reference; the kernels are generated from the same equations."""

import os
from functools import cache
from importlib import import_module
from importlib.util import find_spec

from sbi_circuits.circuit import Circuit
from sbi_circuits.engines.base import Engine, Protocol, Simulation
from sbi_circuits.errors import UnknownNameError

__all__ = ["ENGINES", "Engine", "Protocol", "Simulation", "default_engine", "get_engine"]

# Name -> where the class lives; loaded on first use, because Brian2 and numba are slow to import.
ENGINES = {
    "brian2": ("sbi_circuits.engines.brian2_engine", "Brian2Engine"),
    "kernel[cuda]": ("sbi_circuits.engines.kernel_cuda", "CudaEngine"),
    "kernel[numba]": ("sbi_circuits.engines.rate_numba", "CompiledEngine"),
    "torch": ("sbi_circuits.engines.torch_engine", "TorchEngine"),
}
DEFAULT_ENGINE = "kernel[numba]"


def default_engine(circuit: Circuit | None = None) -> str:
    """What "auto" stands for: without a CUDA device and numba-cuda `kernel[numba]`.

    With them `kernel[cuda]`, for circuits that spike and for rate circuits: all time steps of a batch are one launch.
    Gradients are asked of the engine `torch` by name.
    """
    return "kernel[cuda]" if _cuda_device() else DEFAULT_ENGINE


@cache
def _cuda_device() -> bool:
    if find_spec("numba_cuda") is None or os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0":
        return False
    from numba import cuda

    return bool(cuda.is_available())


def get_engine(name: str = "auto", circuit: Circuit | None = None) -> Engine:
    """The engine of that name; "auto" is the fastest one here, for that circuit.

    Raises:
        UnknownNameError: an unknown name; the message lists the valid ones.
    """
    name = default_engine(circuit) if name == "auto" else name
    if name not in ENGINES:
        raise UnknownNameError("engine", name, ["auto", *ENGINES])
    module, cls = ENGINES[name]
    engine: Engine = getattr(import_module(module), cls)()
    return engine
