"""Source text of what a kernel adds for noise, synaptic variables, random weights and delays, and summed coupling.

Nothing here is printed for a circuit that has none of these. Every array of such a construct is an argument of its
own, named after the projection; `extra_names` lists them in the order of the signature.
"""

from sbi_circuits.circuit import Circuit, Projection
from sbi_circuits.engines.coupling import Coupling
from sbi_circuits.engines.printer import constants, show
from sbi_circuits.engines.translate import Translation

Parts = tuple[Translation, ...]
DECORATOR = "@njit(cache=True, fastmath=FLAGS, error_model='numpy')"


def uses_plain_delivery(projection: Projection) -> bool:
    """Whether today's fast delivery serves a projection: one number added to one variable."""
    return projection.plain and len(projection.effects) == 1


def is_noisy(parts: Parts) -> bool:
    return any(part.noise for part in parts)


def noise_numbers(parts: Parts) -> list[list[int]]:
    """The number of each row of noise, by population; numbers count over all populations."""
    numbers, first = [], 0
    for part in parts:
        numbers.append(list(range(first, first + len(part.noise))))
        first += len(part.noise)
    return numbers


def imports(circuit: Circuit, parts: Parts, links: dict[int, Coupling]) -> list[str]:
    """Import lines of the constructs the circuit has."""
    lines = []
    texts = [s.expression for part in parts for s in (*part.update, *part.reset)] + [part.threshold for part in parts]
    texts += [s.expression for link in links.values() for s in link.update]
    texts += [expression for link in links.values() for _, expression in link.summed]
    texts += [readout.expression for readout in circuit.readouts]
    if any("exprel(" in text for text in texts):
        lines.append("from sbi_circuits.engines.kernel_functions import exprel_double, exprel_single")
    if is_noisy(parts):
        lines.append("from sbi_circuits.engines.noise import normals_double, normals_single")
    needed = [n for n, used in (
        ("deliver_each", any(p.effects and not uses_plain_delivery(p) for p in circuit.projections)),
        ("hold_each", any(p.refractory_varies for p in circuit.populations)),
    ) if used]  # fmt: skip
    if needed:
        lines.append(f"from sbi_circuits.engines.kernel_synapses import {', '.join(needed)}")
    return lines


def extra_names(circuit: Circuit, parts: Parts, links: dict[int, Coupling]) -> list[str]:
    """Arguments of `run` beyond those every kernel has."""
    names = [f"noise_{m}" for numbers in noise_numbers(parts) for m in numbers]
    names += ["keys"] if names else []
    names += [f"refractory_{k}" for k, p in enumerate(circuit.populations) if p.refractory_varies]
    for k, projection in enumerate(circuit.projections):
        if not uses_plain_delivery(projection):
            names += [f"increment_{k}_{e}" for e in range(len(projection.effects))]
        names += [f"delays_{k}"] if projection.random_delay else []
        if k in links:
            names += [f"KS_{k}"] + ([f"weights_{k}"] if links[k].summed and links[k].random_weight else [])
            if links[k].update:
                names += [f"own_{k}", f"spiked_{k}"]
                names += [f"gain_{k}_{e}" for e in range(len(projection.effects))]
    return names


def functions(links: dict[int, Coupling], single: bool) -> list[str]:
    """Functions of the couplings: what happens at a spike of a source, and the sums."""
    emissions = [_emission(k, link, single) for k, link in links.items() if link.update]
    return emissions + [_sum(k, e, link, single) for k, link in links.items() for e in range(len(link.summed))]


def _emission(k: int, link: Coupling, single: bool) -> str:
    gains = [s.target for s in link.update if s.target.startswith("gain_")]
    arrays = [*(f"b_{n}" for n in link.reads), *(f"to_{g}" for g in gains)]
    lines = [
        DECORATOR,
        f"def emit_{k}(ring, now, count, last, own, {', '.join(arrays)}, step, delay, dt, K):",
        *constants(s.expression for s in link.update),
        "    for q in range(count):",
        "        j = ring[now, q]",
        # Brian2's own difference of two times of arrival, so that it agrees to the last bit.
        "        elapsed = real((step + delay) * dt - (last[j] + delay) * dt)",
        "        last[j] = step",
    ]
    lines += [f"        {v} = own[{row}, j]" for row, v in enumerate(link.variables)]
    lines += [f"        {n}_pre = b_{n}[j]" for n in link.reads]
    lines += [f"        {s.target} = {show(s.expression, single, link.invariants)}" for s in link.update]
    lines += [f"        own[{row}, j] = {v}" for row, v in enumerate(link.variables)]
    lines += [f"        to_{g}[now, q] = {g}" for g in gains]
    return "\n".join(lines)


def _sum(k: int, e: int, link: Coupling, single: bool) -> str:
    expression = link.summed[e][1]
    arrays = ["indptr", "targets", "weights", "total", *(f"b_{n}" for n in link.pre), *(f"c_{n}" for n in link.post)]
    lines = [
        DECORATOR,
        f"def sum_{k}_{e}({', '.join(arrays)}, K):",
        *constants([expression]),
        "    total[:] = ZERO",
        "    for i in range(len(indptr) - 1):",
        *(f"        {n}_pre = b_{n}[i]" for n in link.pre),
        "        for q in range(indptr[i], indptr[i + 1]):",
        "            j = targets[q]",
        *(f"            {n}_post = c_{n}[j]" for n in link.post),
        *(["            weight = weights[q]"] if link.random_weight else []),
        f"            total[j] += {show(expression, single, link.invariants)}",
    ]
    return "\n".join(lines)


def _position(parts: Parts, population: str) -> int:
    return next(k for k, part in enumerate(parts) if part.name == population)


def state_row(parts: Parts, population: str, variable: str) -> str:
    """Name of the array of a variable of a population in the kernel."""
    position = _position(parts, population)
    return f"state_{position}_{parts[position].variables.index(variable)}"


def before_update(parts: Parts, links: dict[int, Coupling], single: bool) -> list[str]:
    """Sums over synapses, then the step's noise."""
    lines = []
    for k, link in links.items():
        weights = f"weights_{k}" if link.random_weight else "None"
        for e, (variable, _) in enumerate(link.summed):
            arrays = [state_row(parts, link.source, n) for n in link.pre]
            arrays += [state_row(parts, link.target, n) for n in link.post]
            arguments = ", ".join([state_row(parts, link.target, variable), *arrays])
            lines += [
                f"        if len(targets_{k}) > 0:",
                f"            sum_{k}_{e}(indptr_{k}, targets_{k}, {weights}, {arguments}, KS_{k})",
            ]
    fill = "normals_single" if single else "normals_double"
    for p, numbers in enumerate(noise_numbers(parts)):
        lines += [f"        {fill}(noise_{m}, sizes[{p}], {m}, step, keys[0], keys[1])" for m in numbers]
    return lines


def after_update(parts: Parts, links: dict[int, Coupling]) -> list[str]:
    """Synaptic variables of the sources that spiked."""
    lines = []
    for k, link in links.items():
        if link.update:
            source = _position(parts, link.source)
            gains = [s.target for s in link.update if s.target.startswith("gain_")]
            arrays = [state_row(parts, link.source, n) for n in link.reads]
            arrays += [f"gain_{k}_{g.removeprefix('gain_')}" for g in gains]
            lines += [
                f"        if n{source} > 0:",
                f"            emit_{k}(ring_{source}, now, n{source}, spiked_{k}, own_{k}, {', '.join(arrays)}, "
                f"step, delay[{k}], dt, KS_{k})",
            ]
    return lines


def delivery(k: int, projection: Projection, parts: Parts) -> list[str]:
    """Delivery of one projection that the fast path does not serve."""
    if not projection.effects:
        return []
    source, target = _position(parts, projection.source), _position(parts, projection.target)
    held = parts[target].held
    indent, indptr, delay = "        ", f"indptr_{k}", f"delay[{k}]"
    lines = []
    if projection.random_delay:
        lines.append(f"        for g in range(len(delays_{k})):")
        indent, indptr, delay = "            ", f"indptr_{k}[g]", f"delays_{k}[g]"
    lines += [
        f"{indent}past = (step - {delay}) % depth",
        f"{indent}if step >= {delay} and ring_count[{source}, past] > 0:",
    ]
    spikes = f"ring_{source}, past, ring_count[{source}, past]"
    for e, (variable, expression) in enumerate(projection.effects):
        until = f"until_{target}" if variable in held else "None"
        increment = f"increment_{k}_{e}"
        each = projection.varies_by_synapse(expression)
        amount, weights = ("ONE", increment) if each else (increment, "None")
        gains = f"gain_{k}_{e}" if projection.has_state else "None"
        lines.append(
            f"{indent}    deliver_each({indptr}, targets_{k}, {amount}, {weights}, {gains}, {spikes}, "
            f"{state_row(parts, projection.target, variable)}, {until}, step)"
        )
    return lines
