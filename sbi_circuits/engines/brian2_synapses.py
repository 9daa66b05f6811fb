"""Projections as Brian2 `Synapses`, the wiring and all values taken from the `Setup`."""

from collections.abc import Mapping
from typing import Any

import brian2
import numpy as np
from brian2.units.fundamentalunits import Quantity, get_dimensions

from sbi_circuits.circuit import Projection
from sbi_circuits.engines.brian2_delays import delayed_sums
from sbi_circuits.engines.synapses import Synapses
from sbi_circuits.units import declared_quantities, dimensioned_value

Groups = Mapping[str, brian2.NeuronGroup]


def brian2_synapses(
    projection: Projection, synapses: Synapses, groups: Groups, known: Mapping[str, Any], clock: brian2.Clock
) -> brian2.Synapses:
    """The Brian2 object of one projection.

    Args:
        projection: its equations and statements.
        synapses: its synapses, delays, weights and initial values.
        groups: Brian2's neurons by population.
        known: parameters and constants as Brian2 quantities.
        clock: of the simulation.
    """
    if projection.plain:
        model, on_pre, namespace = "", *_plain_effects(synapses, groups[synapses.target])
    else:
        model, on_pre, namespace = _model(projection, synapses, groups, known), projection.on_spike, dict(known)
        if not projection.random_weight:
            namespace["weight"] = Quantity.with_dimensions(synapses.weight, _weight_dimension(projection, known))
    found = brian2.Synapses(
        groups[synapses.source],
        groups[synapses.target],
        model=model,
        on_pre=on_pre or None,
        on_post=projection.on_post or None,
        delay=synapses.delay_steps * float(clock.dt_) * brian2.second if on_pre and len(synapses.delays) == 1 else None,
        namespace=namespace,
        clock=clock,
        name=f"projection_{synapses.number}",
    )
    # Within a time step projections act in the circuit's order; Brian2 would order them by name.
    for pathway in found._pathways:
        pathway.order = synapses.number
    found.connect(i=synapses.sources, j=synapses.targets.astype(np.int64))
    if on_pre and len(synapses.delays) > 1:
        found.pre.delay = synapses.synapse_delays * float(clock.dt_) * brian2.second
    if projection.random_weight and not projection.plain:
        found.weight_ = synapses.weight
    for name, value in synapses.initial.items():
        setattr(found, f"{name}_", value)
    return found


def _plain_effects(synapses: Synapses, target: brian2.NeuronGroup) -> tuple[str, dict[str, Any]]:
    """Statements that add numbers known by name, so that equal code is compiled once."""
    names = [f"synaptic_increment_{k}" for k in range(len(synapses.variables))]
    code = "\n".join(f"{v}_post += {n}" for v, n in zip(synapses.variables, names, strict=True))
    dimensions = [target.variables[v].dim for v in synapses.variables]
    values = zip(names, synapses.increments, dimensions, strict=True)
    return code, {name: Quantity.with_dimensions(value, dimension) for name, value, dimension in values}


def _model(projection: Projection, synapses: Synapses, groups: Groups, known: Mapping[str, Any]) -> str:
    """Equations of the synapses: the projection's own, the weight where it differs, and summed couplings."""
    lines = [projection.equations]
    if projection.random_weight:
        lines.append(f"weight : {_unit(_weight_dimension(projection, known))} (constant)")
    for variable, expression in delayed_sums(projection, synapses):
        unit = _unit(groups[synapses.target].variables[variable].dim)
        lines.append(f"{variable}_post = {expression} : {unit} (summed)")
    return "\n".join(lines)


def _weight_dimension(projection: Projection, known: Mapping[str, Any]) -> Any:
    known = {**known, **declared_quantities(projection.columns.items())}
    return get_dimensions(dimensioned_value(projection.weight, known, f"projection {projection.name}, weight"))


def _unit(dimension: Any) -> str:
    return "1" if dimension.is_dimensionless else repr(dimension)
