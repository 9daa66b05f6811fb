"""Source text of the summed couplings in a rate circuit's CUDA kernel."""

import re
from dataclasses import dataclass

from sbi_circuits.engines.coupling import Coupling
from sbi_circuits.engines.cuda_printer import show
from sbi_circuits.engines.rate_program import names_of
from sbi_circuits.engines.rate_source import first_term
from sbi_circuits.engines.torch_terms import Term, terms

_SYNC = "        cuda.syncthreads()"


def used_constants(expressions: list[str]) -> list[int]:
    """Numbers of the invariants that some expressions use."""
    return sorted({int(j) for e in expressions for j in re.findall(r"K\[(\d+)\]", e)})


@dataclass(frozen=True)
class Sum:
    """One summed coupling of a projection: a thread for each target, its sources in ascending order.

    Args:
        link: the projection.
        e: which of its sums.
        single: precision.
        felt: array of the variable that is set.
        pre, post: array of each variable that is read, of the source and of the target.
        sources, size: how many neurons source and target have, as source text.
    """

    link: Coupling
    e: int
    single: bool
    felt: str
    pre: dict[str, str]
    post: dict[str, str]
    sources: str
    size: str

    @property
    def expression(self) -> str:
        return self.link.summed[self.e][1]

    def _name(self, array: str) -> str:
        return f"{array}_{self.link.number}"

    def _constants(self, expression: str) -> list[str]:
        return [f"        k{j} = {self._name('KS')}[{j} * lanes + lane]" for j in used_constants([expression])]

    def lines(self) -> list[str]:
        """Lines of the kernel, as deep as a step's."""
        listed = terms(self.expression, self.link.random_weight)
        if listed is None:
            return self._pairs()
        first = first_term(self.link, self.e)
        return [line for n, term in enumerate(listed) for line in self._product(term, first + n, n == 0)]

    def _targets(self, body: list[str]) -> list[str]:
        return [
            f"        for j in range(unit, {self.size}, units):",
            "            to = origin + j * across",
            *(f"            {line}" for line in body),
        ]

    def _incoming(self, body: list[str]) -> list[str]:
        rows, jump = self._name("starts"), self._name("jump")
        return [
            f"for q in range({rows}[lane * {jump} + j], {rows}[lane * {jump} + j + 1]):",
            f"    at = origin + {self._name('sources')}[q] * across",
            *(f"    {line}" for line in body),
        ]

    def _pairs(self) -> list[str]:
        """A coupling that is no product: evaluated for every synapse."""
        reads = [f"{n}_pre = {a}[at]" for n, a in self.pre.items()]
        reads += [f"weight = {self._name('weights')}[q]"] if self.link.random_weight else []
        body = [
            *(f"{n}_post = {a}[to]" for n, a in self.post.items()),
            "total = ZERO",
            *self._incoming([*reads, f"total += {show(self.expression, self.single)}"]),
            f"{self.felt}[to] = total",
        ]
        return [*self._constants(self.expression), *self._targets(body), _SYNC]

    def _product(self, term: Term, number: int, new: bool) -> list[str]:
        """One term: the source's factor, the matrix, the target's factor."""
        scratch = self._name("scratch")
        total = "real(0.0)" if new else f"{self.felt}[to]"
        factor = f"({show(term.post, self.single)}) * total" if term.post else "total"
        weight = f"{self._name('weights')}[q] * " if term.weighted else ""
        rows = self._incoming([f"total += {weight}{scratch}[at]"])
        after = [
            *self._reads(term.post, self.post, "post", "to"),
            "total = ZERO",
            *self._fast(term.weighted),
            "else:",
            *(f"    {line}" for line in rows),
            f"{self.felt}[to] = {total} + {factor}",
        ]
        return [
            *self._constants(term.pre),
            f"        for n in range(unit, {self.sources}, units):",
            "            at = origin + n * across",
            *(f"            {line}" for line in self._reads(term.pre, self.pre, "pre", "at")),
            f"            {scratch}[at] = {show(term.pre, self.single) if term.pre else 'ONE'}",
            *self._delayed(number),
            _SYNC,
            *([] if term.weighted else self._everything()),
            *self._constants(term.post),
            *self._targets(after),
            _SYNC,
        ]

    def _reads(self, expression: str, arrays: dict[str, str], end: str, at: str) -> list[str]:
        used = names_of(expression) if expression else frozenset()
        return [f"{n}_{end} = {a}[{at}]" for n, a in arrays.items() if f"{n}_{end}" in used]

    def _fast(self, weighted: bool) -> list[str]:
        """Where no list of synapses is needed: a full matrix, or the same weight for every pair."""
        if weighted:
            return [
                f"if {self._name('dense')}:",
                f"    for n in range({self.sources}):",
                f"        total += {self._name('weights')}[(lane * {self.sources} + n) * {self.size} + j] * "
                f"{self._name('scratch')}[origin + n * across]",
            ]
        own = f" - {self._name('scratch')}[to]" if self.link.source == self.link.target else ""
        return [f"if {self._name('all_pairs')}:", f"    total = everything{own}"]

    def _everything(self) -> list[str]:
        """Sum over all sources: each thread its own, then their shares in order."""
        return [
            "        everything = ZERO",
            f"        if {self._name('all_pairs')}:",
            f"            for n in range(unit, {self.sources}, units):",
            f"                everything += {self._name('scratch')}[origin + n * across]",
            "            shares[tid] = everything",
            "            cuda.syncthreads()",
            "            everything = ZERO",
            "            for other in range(units):",
            "                everything += shares[other * per_block + place]",
            "            cuda.syncthreads()",
        ]

    def _delayed(self, number: int) -> list[str]:
        """Put the source's factor into the ring of its past, and take out the one that arrives now."""
        past, scratch = self._name("past"), self._name("scratch")
        return [
            f"            if {past}.shape[1] > 1:",
            "                if step == 0:",
            f"                    for then in range({past}.shape[1]):",
            f"                        {past}[{number}, then, at] = {scratch}[at]",
            f"                {past}[{number}, step % {past}.shape[1], at] = {scratch}[at]",
            f"                then = (step - {self._name('lags')}[lane]) % {past}.shape[1]",
            f"                {scratch}[at] = {past}[{number}, then, at]",
        ]
