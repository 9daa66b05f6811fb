"""Source text of the readouts in the CUDA kernel of a circuit that spikes: sampled and reduced while it runs.

What is summed over neurons is summed by halves over the threads of a block, in double precision, so that it depends on
the number of threads alone.
"""

from sbi_circuits.engines.cuda_columns import Columns
from sbi_circuits.engines.cuda_printer import constants, show
from sbi_circuits.engines.rate_program import names_of

# Arguments of a kernel with readouts, beside the others: first step, steps between samples, and of each readout the row
# of its first channel, -1 for none (sampled); the samples (signals); room for a number of each thread (shares).
SIGNAL_ARGUMENTS = ("sampled", "signals", "shares")
ROWS = 2


def signal_functions(columns: Columns, single: bool) -> list[str]:
    """One function for each readout: its value for one neuron."""
    return [_read(k, columns, single) for k in range(len(columns.outputs))]


def _used(columns: Columns, k: int) -> tuple[int, list[str], list[str]]:
    """Population of a readout, and the variables and inputs that it reads."""
    output = columns.outputs[k]
    p, names = columns.position(output.readout.population), names_of(output.expression)
    part = columns.parts[p]
    return p, [v for v in part.variables if v in names], [n for n in part.shared if n in names]


def _read(k: int, columns: Columns, single: bool) -> str:
    _, variables, shared = _used(columns, k)
    expression = columns.outputs[k].expression
    names = "".join(f", {n}" for n in (*variables, *shared))
    return "\n".join([
        "@device",
        f"def read_{k}(i, t, R{names}):",
        *constants([expression], columns.readout_invariant(k)),
        f"    return real({show(expression, single)})",
    ])  # fmt: skip


def signal_lines(columns: Columns) -> list[str]:
    """Samples of one step."""
    if not columns.outputs:
        return []
    lines = [
        "            if step >= sampled[0] and (step - sampled[0]) % sampled[1] == 0:",
        "                sample = (step - sampled[0]) // sampled[1]",
    ]
    for k, output in enumerate(columns.outputs):
        p, variables, shared = _used(columns, k)
        values = [*(f"a{p}_{v}[np.uint32(cell)]" for v in variables), *(f"x{p}_{n}" for n in shared)]
        value = f"read_{k}({', '.join(['real(cell)', 't', 'R', *values])})"
        each = output.readout.over == "each"
        lines += [
            f"                row = sampled[{ROWS + k}]",
            "                if row >= 0:",
            *([] if each else ["                    share = np.float64(0.0)"]),
            f"                    for cell in range(tid, n_{p}, T):",
            f"                        {'signals[sim, row + cell, sample] =' if each else 'share +='} {value}",
            *([] if each else _together(f" / np.float64(n_{p})" if output.readout.over == "mean" else "")),
        ]
    return lines


def _together(divided: str) -> list[str]:
    return [
        "                    shares[block, tid] = share",
        "                    cuda.syncthreads()",
        "                    half = T >> 1",
        "                    while half > 0:",
        "                        if tid < half:",
        "                            shares[block, tid] += shares[block, tid + half]",
        "                        cuda.syncthreads()",
        "                        half = half >> 1",
        "                    if tid == 0:",
        f"                        signals[sim, row, sample] = real(shares[block, 0]{divided})",
        # The next readout writes where this one was read.
        "                    cuda.syncthreads()",
    ]
