"""What the compiler makes of loops over neurons: vector operations, and no store under a mask."""

import inspect
import platform
import re
import sys
from collections.abc import Callable
from typing import Any

import numba
import pytest

from sbi_circuits.circuit import get_circuit
from sbi_circuits.engines.kernel_numba import load_kernel
from sbi_circuits.engines.kernel_parts import restore_held

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="for x86 alone")
SPIKING = ("adex_clustered", "brunel", "lif_stp", "izhikevich", "hodgkin_huxley")
FLOATS, INTEGERS = numba.float32[::1], numba.int32[::1]
TYPES = {"until": INTEGERS, "fired": INTEGERS, "step": numba.int32, "K": FLOATS, "variable": FLOATS, "saved": FLOATS}


def _assembly(function: Callable[..., Any], flags: Any) -> str:
    """Assembly of a function of a kernel, compiled here: of what is read from a cache it is not known."""
    names = list(inspect.signature(function).parameters)
    types = [FLOATS if name.startswith("a_") else TYPES.get(name, numba.float32) for name in names]
    compiled = numba.njit(fastmath=flags, error_model="numpy")(function)
    compiled.compile(tuple(types))
    return "\n".join(compiled.inspect_asm().values())


def _check(assembly: str, operation: str) -> None:
    assert re.search(operation, assembly)
    # Some processors take longer for one of these than for all the rest of a short update.
    assert "vmaskmov" not in assembly


@pytest.mark.parametrize("name", SPIKING)
def test_an_update_is_of_vector_operations_without_masked_stores(name):
    kernel, parts, _ = load_kernel(get_circuit(name), True)
    module = sys.modules[kernel.py_func.__module__]
    for number in range(len(parts)):
        _check(_assembly(getattr(module, f"update_{number}").py_func, module.FLAGS), r"v?(mul|fn?m(add|sub)\d+)ps")


def test_restoring_is_of_vector_operations_without_masked_stores():
    load_kernel(get_circuit("brunel"), True)  # sets the options of the vectoriser
    _check(_assembly(restore_held.py_func, False), r"blend|\{%k")
