"""Engines: what runs a circuit. Brian2 is the reference; the kernels are generated from the same equations."""

from importlib import import_module

from sbi_circuits.engines.base import Engine, Protocol, Simulation
from sbi_circuits.errors import UnknownNameError

__all__ = ["ENGINES", "Engine", "Protocol", "Simulation", "get_engine"]

# Name -> where the class lives; loaded on first use, because Brian2 and numba are slow to import.
ENGINES = {
    "brian2": ("sbi_circuits.engines.brian2_engine", "Brian2Engine"),
    "kernel[numba]": ("sbi_circuits.engines.kernel_numba", "NumbaEngine"),
}
DEFAULT_ENGINE = "kernel[numba]"


def get_engine(name: str = "auto") -> Engine:
    """The engine of that name; "auto" is the fastest one here. Raises `UnknownNameError` listing the names."""
    name = DEFAULT_ENGINE if name == "auto" else name
    if name not in ENGINES:
        raise UnknownNameError("engine", name, ["auto", *ENGINES])
    module, cls = ENGINES[name]
    engine: Engine = getattr(import_module(module), cls)()
    return engine
