"""Source text of the delivery of plain spikes: one number added to one variable of every target, after one delay.

In single precision the rows of projections that leave the same population with the same delay lie side by side
(`kernel_rows`), and many spikes over dense wiring are counted as bit planes (`kernel_dense`). In double precision
spikes are added one projection after another, in the order in which Brian2 adds.
"""

from collections.abc import Callable

from sbi_circuits.circuit import Circuit, Projection
from sbi_circuits.engines.synapse_source import delivery, state_row, uses_plain_delivery
from sbi_circuits.engines.translate import Translation

Parts = tuple[Translation, ...]
Groups = tuple[tuple[int, ...], ...]


def delivery_groups(circuit: Circuit) -> Groups:
    """Numbers of the projections whose spikes add plain numbers to the same variable of the same population."""
    return _grouped(circuit, lambda projection: (projection.target, projection.effects[0][0]))


def joined_groups(circuit: Circuit) -> Groups:
    """Numbers of the plain projections whose rows lie side by side: from one population, with one delay."""
    return _grouped(circuit, lambda projection: (projection.source, projection.delay))


def _grouped(circuit: Circuit, key: Callable[[Projection], tuple[str, str]]) -> Groups:
    """Numbers of the plain projections, those with one key together."""
    groups: dict[tuple[str, str], list[int]] = {}
    for k in _plain(circuit):
        groups.setdefault(key(circuit.projections[k]), []).append(k)
    return tuple(map(tuple, groups.values()))


def _plain(circuit: Circuit) -> list[int]:
    return [k for k, projection in enumerate(circuit.projections) if uses_plain_delivery(projection)]


def delivery_functions(circuit: Circuit, single: bool) -> list[str]:
    """A function for each group of joined projections."""
    return [_deliver(g, members) for g, members in enumerate(joined_groups(circuit))] if single else []


def _deliver(g: int, members: tuple[int, ...]) -> str:
    variables = ", ".join(f"v{k}" for k in members)
    parts = len(members)
    lines = [
        "@njit(cache=True, fastmath={'contract'})",
        f"def deliver_{g}(starts, targets, lines, weight, ring, past, count, {variables}):",
        *(f"    weight{k} = weight[{k}]" for k in members),
        "    for s in range(count):",
        f"        first = np.int64(ring[past, s]) * {parts}",
        "        if s + AHEAD < count:",
        f"            prefetch_row(starts, targets, np.int64(ring[past, s + AHEAD]) * {parts}, lines)",
        "        # More of the next spike's row is asked for while a long one is added.",
        f"        ahead = np.int64(starts[np.int64(ring[past, s + 1]) * {parts} if s + 1 < count else first])",
        "        ahead += LINES * (64 // targets.itemsize)",
        "        at = np.uint64(starts[first])",
    ]
    for p, k in enumerate(members):
        lines += [
            f"        end = np.uint64(starts[first + {p + 1}])",
            f"        ahead = add_row(targets, at, end, weight{k}, v{k}, ahead)",
            "        at = end",
        ]
    return "\n".join(lines)


def unpack_lines(circuit: Circuit, single: bool) -> list[str]:
    """Names for the arrays of plain projections, before the loop over time steps."""
    if not single:
        return []
    lines = [f"    bits_{k} = bits[{k}]" for k in _plain(circuit)]
    lines += [f"    stack_{g}, factors_{g} = stack[{g}], factors[{g}]" for g in range(len(delivery_groups(circuit)))]
    for g in range(len(joined_groups(circuit))):
        lines.append(f"    starts_{g}, joined_{g}, amounts_{g}, heard_{g} = joined[{g}]")
        lines.append(f"    enough_{g}, as_bits_{g} = enough[{g}], False")
    return lines


def fetch_lines(source: int, circuit: Circuit, parts: Parts, single: bool) -> list[str]:
    """Ask for the rows of the spikes of a population that arrive in this step, before the first is delivered.

    Rows of bits are asked for while they are counted.
    """
    name, lines = parts[source].name, []
    spikes = f"ring_{source}, past, arrived"
    for g, members in enumerate(joined_groups(circuit) if single else ((k,) for k in _plain(circuit))):
        if circuit.projections[members[0]].source != name:
            continue
        lines += _arrivals(members[0], source)
        if not single:
            lines.append(f"            prefetch_rows(indptr_{members[0]}, targets_{members[0]}, {spikes})")
            continue
        rows = f"starts_{g}, joined_{g}, layout[{g}, 1], layout[{g}, 2]"
        lines.append(f"            if arrived < enough_{g}:")
        lines.append(f"                prefetch_arrivals({rows}, {spikes})")
    return lines


def _where_wired(k: int, action: str) -> str:
    return f"if len(targets_{k}) > 0: {action}"


def _arrivals(k: int, source: int) -> list[str]:
    """`past`: when the spikes of projection k that arrive now were fired; `arrived`: how many they are."""
    return [
        f"        past = now - delay[{k}] if now >= delay[{k}] else now - delay[{k}] + depth",
        f"        arrived = ring_count[{source}, past] if step >= delay[{k}] else 0",
        "        if arrived > 0:",
    ]


def delivery_lines(circuit: Circuit, parts: Parts, single: bool) -> list[str]:
    """Delivery of all projections, plain or not."""
    if not single:
        return [line for k in range(len(circuit.projections)) for line in _one_by_one(k, circuit, parts)]
    planes = delivery_groups(circuit)
    lines = [f"        filled_{g} = 0" for g in range(len(planes))]
    for g, members in enumerate(joined_groups(circuit)):
        lines += _joined_lines(g, members, circuit, parts, planes)
    for g, members in enumerate(planes):
        lines.append(f"        if filled_{g} > 0:")
        lines.append(f"            expand(stack_{g}, factors_{g}, filled_{g}, {_variable(members[0], circuit, parts)})")
    for k, projection in enumerate(circuit.projections):
        lines += [] if uses_plain_delivery(projection) else delivery(k, projection, parts)
    return lines


def _variable(k: int, circuit: Circuit, parts: Parts) -> str:
    return state_row(parts, circuit.projections[k].target, circuit.projections[k].effects[0][0])


def _source(k: int, circuit: Circuit, parts: Parts) -> int:
    return [part.name for part in parts].index(circuit.projections[k].source)


def _joined_lines(g: int, members: tuple[int, ...], circuit: Circuit, parts: Parts, planes: Groups) -> list[str]:
    source = _source(members[0], circuit, parts)
    rows, spikes = f"starts_{g}, joined_{g}", f"ring_{source}, past, arrived"
    variables = ", ".join(_variable(k, circuit, parts) for k in members)
    lines = [
        *_arrivals(members[0], source),
        f"            if arrived >= enough_{g}:",
        # Many simulations never have so many spikes in a step.
        f"                if not as_bits_{g}:",
        f"                    as_bits_{g} = True",
        *(f"                    {_where_wired(k, f'set_bits(indptr_{k}, targets_{k}, bits_{k})')}" for k in members),
    ]
    for k in members:
        h = next(h for h, group in enumerate(planes) if k in group)
        arguments = f"{spikes}, {_variable(k, circuit, parts)}, stack_{h}, factors_{h}, filled_{h}"
        lines.append(f"                {_where_wired(k, f'filled_{h} = tally(bits_{k}, weight[{k}], {arguments})')}")
    return [
        *lines,
        f"            elif layout[{g}, 0] > 0:",
        f"                deliver_packed({rows}, amounts_{g}, layout[{g}, 0], layout[{g}, 2], {spikes}, heard_{g})",
        "            else:",
        f"                deliver_{g}({rows}, layout[{g}, 2], weight, {spikes}, {variables})",
    ]


def _one_by_one(k: int, circuit: Circuit, parts: Parts) -> list[str]:
    if not uses_plain_delivery(circuit.projections[k]):
        return delivery(k, circuit.projections[k], parts)
    source = _source(k, circuit, parts)
    arguments = f"indptr_{k}, targets_{k}, weight[{k}], ring_{source}, past, arrived, {_variable(k, circuit, parts)}"
    return [*_arrivals(k, source), f"            deliver({arguments})"]
