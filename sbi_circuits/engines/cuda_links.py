"""Source text of the CUDA functions of projections with variables of their own, or with a summed coupling."""

from sbi_circuits.engines.coupling import Coupling
from sbi_circuits.engines.cuda_printer import EACH_SPIKE, NEXT_SPIKE, constants, show, texts


def emission(j: int, link: Coupling, first: int, single: bool) -> str:
    """What happens at a spike of a source: its synaptic variables, and what its synapses will add."""
    gains = [s.target for s in link.update if s.target.startswith("gain_")]
    arrays = "".join([*(f", b_{n}" for n in link.reads), *(f", to_{g}" for g in gains)])
    lines = [
        "@device",
        f"def emit_{j}(tid_, threads_, spikes_, capacity_, head_, count_, cells_, last_, own_{arrays}, step_, "
        "delay_, dt, R):",
        *constants(texts(link.update), first),
        *EACH_SPIKE,
        # Brian2's own difference of two times of arrival, so that it agrees to the last bit.
        "        elapsed = real((step_ + delay_) * dt - (last_[at_] + delay_) * dt)",
        "        last_[at_] = step_",
        *(f"        {v} = own_[np.uint32({row} * cells_ + number_)]" for row, v in enumerate(link.variables)),
        *(f"        {n}_pre = b_{n}[at_]" for n in link.reads),
        *(f"        {s.target} = {show(s.expression, single)}" for s in link.update),
        *(f"        own_[np.uint32({row} * cells_ + number_)] = {v}" for row, v in enumerate(link.variables)),
        *(f"        to_{g}[np.uint32(place_)] = {g}" for g in gains),
        NEXT_SPIKE,
    ]
    return "\n".join(lines)


def summed(j: int, e: int, link: Coupling, first: int, single: bool) -> str:
    """One summed coupling: a thread for each target, its sources in ascending order."""
    expression = link.summed[e][1]
    arrays = "".join([*(f", b_{n}" for n in link.pre), *(f", c_{n}" for n in link.post)])
    lines = [
        "@device",
        f"def sum_{j}_{e}(tid_, threads_, cells_, indptr_, row_, sources_, weights_, total_{arrays}, R):",
        *constants([expression], first),
        "    for j_ in range(tid_, cells_, threads_):",
        *(f"        {n}_post = c_{n}[j_]" for n in link.post),
        "        value_ = ZERO",
        "        for q_ in range(indptr_[row_ + j_], indptr_[row_ + j_ + 1]):",
        *(f"            {n}_pre = b_{n}[sources_[q_]]" for n in link.pre),
        *(["            weight = weights_[0, q_]"] if link.random_weight else []),
        f"            value_ += {show(expression, single)}",
        "        total_[j_] = value_",
    ]
    return "\n".join(lines)
