"""Measured wiring in circuits of the equation language, which every engine runs: spiking cells or rates."""

from collections.abc import Sequence

import numpy as np

from sbi_circuits.circuit import EdgeList, Projection
from sbi_circuits.connectome.wiring import Wiring
from sbi_circuits.errors import CircuitError, UnknownNameError


def edge_list(
    wiring: Wiring, source: str | None = None, target: str | None = None, groups: Sequence[str] = ()
) -> EdgeList:
    """Synapses of a wiring as a wiring rule; neuron i of a population is the i-th cell of its type.

    Its columns, which a projection's weight and delay may name: `sign` (+1 or -1), `count` (synapses of an edge),
    `latency` (s, where delays were measured), and `in_group_0`, `in_group_1`, ... (1 for edges of that group).

    Args:
        wiring: who connects to whom.
        source, target: cell types; all cells, as one population, where None.
        groups: names of groups of edges that share a parameter.

    Raises:
        UnknownNameError: a type or group the wiring does not have.

    Examples:
        >>> wiring = Wiring(("E", "I"), [0, 0, 1], source=[0, 1, 2], target=[1, 2, 0], count=[3, 1, 2], sign=[1, 1, -1])
        >>> rule = edge_list(wiring, groups=["I->E"])
        >>> weight = "(w + w_i*in_group_0)*sign*count"  # a strength of all, and more of it for one group
        >>> rule.source.tolist(), rule.columns["in_group_0"][1].tolist()
        ([0, 1, 2], [0.0, 0.0, 1.0])
        >>> edge_list(wiring, "E", "I").source.tolist()
        [1]
    """
    chosen = _of_type(wiring, wiring.source, source) & _of_type(wiring, wiring.target, target)
    columns: dict[str, object] = {"sign": wiring.sign[chosen], "count": wiring.count[chosen]}
    if wiring.delay is not None:
        columns["latency"] = ("second", wiring.delay[chosen])
    for k, name in enumerate(groups):
        if name not in wiring.groups:
            raise UnknownNameError("group of edges", name, wiring.groups)
        columns[f"in_group_{k}"] = wiring.group[chosen] == wiring.groups.index(name)
    ends = (_within(wiring, source)[wiring.source[chosen]], _within(wiring, target)[wiring.target[chosen]])
    return EdgeList(*ends, columns)


def gap_list(wiring: Wiring) -> EdgeList:
    """Gap junctions of all cells, as one population, in both directions; the column `count` says how many.

    Raises:
        CircuitError: the wiring has none.
    """
    a, b = wiring.gap.T
    other = a != b  # a junction with itself carries no current
    if not other.any():
        raise CircuitError("this wiring has no gap junctions")
    ends = np.concatenate([a[other], b[other]]), np.concatenate([b[other], a[other]])
    return EdgeList(*ends, {"count": np.tile(wiring.gap_count[other], 2)})


def type_projections(
    wiring: Wiring, weight: str, on_spike: str, delay: str = "0*ms", types: Sequence[str] = ()
) -> tuple[Projection, ...]:
    """One projection for each pair of cell types that are connected, between populations named after the types.

    Args:
        wiring: who connects to whom.
        weight, delay: expressions that may name the columns of `edge_list`; `{source}` and `{target}` in them stand
            for the types, so that each pair can have a parameter of its own: `"w_{source}_{target}*sign*count"`.
        on_spike: what a spike does, as in `Projection`.
        types: those to connect; all where empty.

    Raises:
        UnknownNameError: a type the wiring does not have.

    Examples:
        >>> wiring = Wiring(("E", "I"), [0, 0, 1], source=[0, 1, 2], target=[1, 2, 0], count=[3, 1, 2], sign=[1, 1, -1])
        >>> [p.name for p in type_projections(wiring, "w_{source}*sign*count", "v_post += weight")]
        ['E_to_E', 'E_to_I', 'I_to_E']
    """
    named = list(types) or list(wiring.cell_types)
    kept = [wiring.type_index(name) for name in named]
    found = set(zip(wiring.node_type[wiring.source].tolist(), wiring.node_type[wiring.target].tolist(), strict=True))
    pairs = [(wiring.cell_types[s], wiring.cell_types[t]) for s in kept for t in kept if (s, t) in found]
    return tuple(
        Projection(
            f"{s}_to_{t}", s, t, edge_list(wiring, s, t), weight.format(source=s, target=t), on_spike,
            delay.format(source=s, target=t),
        )
        for s, t in pairs
    )  # fmt: skip


def _of_type(wiring: Wiring, cells: np.ndarray, name: str | None) -> np.ndarray:
    if name is None:
        return np.ones(len(cells), dtype=bool)
    return np.asarray(wiring.node_type[cells] == wiring.type_index(name))


def _within(wiring: Wiring, name: str | None) -> np.ndarray:
    """(n,) number of each cell among those of a type."""
    member = np.ones(wiring.n_nodes, dtype=bool) if name is None else wiring.node_type == wiring.type_index(name)
    return np.asarray(np.cumsum(member) - 1)
