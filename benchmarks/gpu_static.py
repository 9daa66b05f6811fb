"""What the CUDA kernels are compiled to, found without a device: registers, spilled bytes, instructions of a step.

    make bench-gpu-static            (ARGS="--only adex_clustered" and the like)

Kernels are compiled for compute capability 9.0 (H100, H200) by NVVM and ptxas from the package index and read back by
nvdisasm. Instructions are those of the code, not those that run: a loop counts once, and so does what a step skips.
Those of functions are told apart by the line of the kernel's source that calls them.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
CAPABILITY, REGISTERS = (9, 0), 64
# What a step of the kernel calls, and how a table names it; the first words of a line of source.
CALLS = {"update_": "update", "send_": "send", "deliver": "deliver", "poisson_events(": "Poisson", "reset_": "reset"}
_LOOP, _AFTER = "for step in range(steps)", "if code != 4"
_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+")
_PLACE = re.compile(r'//## File "([^"]+)", line (\d+)(.*)')


def tool(name: str) -> str:
    """Path of a program of the CUDA toolkit's packages."""
    import nvidia

    for folder in nvidia.__path__:
        for found in Path(folder).glob(f"*/bin/{name}"):
            return str(found)
    raise SystemExit(f"{name} is missing: pip install nvidia-cuda-nvcc nvidia-cuda-nvdisasm 'numba-cuda[cu13]'")


def argument_types(names: tuple[str, ...], single: bool) -> tuple[Any, ...]:
    """Types of a kernel's arguments, as numba names them."""
    from numba import types

    real = types.float32 if single else types.float64
    kinds: dict[str, tuple[Any, int]] = {
        name: (types.int32, ndim)
        for ndim, group in {
            1: "layout given_indptr given_delays sampled", 3: "labels step_at counts",
            2: "plan slots holds indptrs lasts arena_int number sums",
        }.items()
        for name in group.split()
    }  # fmt: skip
    kinds |= {"queue": (types.int64, 1), "kept": (types.int64, 1), "scratch": (types.int64, 2)}
    kinds |= {"squares": (types.int64, 2), "status": (types.int64, 2), "levels": (types.float64, 2)}
    kinds |= {"reals": (real, 2), "initial": (real, 3), "step_value": (real, 3), "given_weights": (real, 2)}
    kinds |= {"arena_real": (real, 2), "signals": (real, 3), "shares": (types.float64, 2)}
    kinds |= {"thresholds": (types.uint32, 1), "bitmaps": (types.uint32, 2), "guide": (types.int32, 3)}
    kinds |= {"given_targets": (types.uint16, 1), "synapses": (types.uint16, 2), "arena_short": (types.uint16, 2)}
    scalars = {"total": types.int64, "dt": types.float64, "bins_per_step": types.float64, "keep": types.int64}
    return tuple(scalars[n] if n in scalars else types.Array(*kinds[n], "C") for n in names)


def compiled(circuit: Any, single: bool, folder: Path) -> tuple[str, str, str, str]:
    """Source of a kernel, its machine code as text, what ptxas says of it, and the name of the source's file."""
    import numba.cuda.dispatcher as dispatcher
    from numba.cuda import compile as compile_function

    from sbi_circuits.engines.cuda_source import argument_names, cuda_source
    from sbi_circuits.engines.kernel_cuda import columns_of
    from sbi_circuits.engines.kernel_numba import _import_source

    # Device functions are compiled for the device there is; here there is none.
    dispatcher.get_current_device = lambda: type("Device", (), {"compute_capability": CAPABILITY})()
    columns = columns_of(circuit, single)
    source = cuda_source(columns, single, True, "static")
    module = _import_source(source, f"{circuit.name}_static")
    types = argument_types(argument_names(columns), single)
    code, _ = compile_function(module.run, types, cc=CAPABILITY, device=False, abi="numba", lineinfo=True)
    (folder / "kernel.ptx").write_text(code)
    cubin = str(folder / "kernel.cubin")
    command = [tool("ptxas"), "-arch=sm_90", "-maxrregcount", str(REGISTERS), "-lineinfo", "-v", "-o", cubin]
    said = subprocess.run([*command, str(folder / "kernel.ptx")], check=True, capture_output=True, text=True).stderr
    machine = subprocess.run([tool("nvdisasm"), "-g", "-c", cubin], check=True, capture_output=True, text=True).stdout
    return source, machine, said, Path(str(module.__file__)).name


def by_line(machine: str, name: str) -> Counter[int]:
    """Instructions by the line of the kernel's own source that they come from or are called from."""
    found: Counter[int] = Counter()
    lines: list[int] = []
    for text in machine.splitlines():
        if place := _PLACE.search(text):
            places = [(place[1], place[2]), *re.findall(r'inlined at "([^"]+)", line (\d+)', place[3])]
            lines = [int(n) for file, n in places if Path(file).name == name]
        elif _INSTRUCTION.match(text) and lines:
            found[lines[-1]] += 1
    return found


def row(circuit: Any, single: bool) -> list[object]:
    """Figures of one kernel."""
    with tempfile.TemporaryDirectory() as folder:
        source, machine, said, file = compiled(circuit, single, Path(folder))
    counts, loop = by_line(machine, file), False
    step: Counter[str] = Counter()
    for number, text in enumerate(source.splitlines(), start=1):
        begins, ends = (text.startswith(f"        {word}") for word in (_LOOP, _AFTER))
        loop = (loop or begins) and not ends
        call = next((what for word, what in CALLS.items() if re.search(rf"(^|[ =]){re.escape(word)}", text)), "others")
        step[call] += counts[number] * loop
    spilled = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)[-1]
    registers = re.findall(r"Used (\d+) registers", said)[-1]
    # Those of every step; deeper ones stand where a byte of counts might run over, and inside functions.
    barriers = source.split(_LOOP)[1].split(_AFTER)[0].count("\n            cuda.syncthreads()")
    return [circuit.name, "single" if single else "double", registers, " / ".join(spilled), barriers,
            *(step[what] for what in (*CALLS.values(), "others"))]  # fmt: skip


def main() -> None:
    """See the module."""
    from sbi_circuits.circuit import get_circuit, list_circuits

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="", help="names of circuits, with commas")
    parser.add_argument("--double", action="store_true", help="double precision too")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else [n for n in list_circuits() if get_circuit(n).spikes]
    head = ["circuit", "precision", "registers", "spilled bytes, stores / loads", "barriers", *CALLS.values(), "others"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for name in names:
        for single in (True, False) if options.double else (True,):
            print(f"| {' | '.join(map(str, row(get_circuit(name), single)))} |", flush=True)


if __name__ == "__main__":
    main()
