"""The engines under test, in one place: a new engine is one entry here, and runs every scenario."""

from collections.abc import Callable
from dataclasses import dataclass

from sbi_circuits.engines import Engine
from sbi_circuits.engines.brian2_engine import Brian2Engine
from sbi_circuits.engines.kernel_numba import NumbaEngine


@dataclass(frozen=True)
class Tested:
    """An engine and how it is made for a test.

    Args:
        exact: in double precision, for equality with Brian2 step by step.
        fast: as it is by default, but without long compilation.
        tiny: runs tiny circuits only (an emulated device).
    """

    exact: Callable[[], Engine]
    fast: Callable[[], Engine]
    tiny: bool = False


TESTED = {
    "brian2": Tested(lambda: Brian2Engine(target="numpy"), lambda: Brian2Engine(target="numpy")),
    "kernel[numba]": Tested(lambda: NumbaEngine(precision="double"), NumbaEngine),
}
REFERENCE = "brian2"
EXACT = {name: tested.exact for name, tested in TESTED.items()}
FAST = {name: tested.fast for name, tested in TESTED.items() if not tested.tiny}
# Compiled engines: those that are compared with the reference.
COMPILED = tuple(sorted(set(TESTED) - {REFERENCE}))
