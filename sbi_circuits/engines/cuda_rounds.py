"""Source text of what is added to the state in a step: spikes delivered and Poisson inputs, in rounds.

No variable is added to twice in one round, so that sums do not depend on the order of threads. Spikes that are counted
(`cuda_tallies`) take part in no round.
"""

from collections import Counter

from sbi_circuits.engines import cuda_columns as at
from sbi_circuits.engines.cuda_columns import Columns, is_ordered
from sbi_circuits.engines.cuda_printer import texts, uses
from sbi_circuits.engines.cuda_tallies import Tallies
from sbi_circuits.engines.poisson_table import COUNTS, EVENTS, PAIRS

POISSON_STREAM = 1
SYNC = "            cuda.syncthreads()"


class Rounds:
    """Prints the rounds of a step of one circuit.

    Args:
        columns: the circuit and its translations.
        tallies: what counts the spikes of some projections, which no round delivers.
    """

    def __init__(self, columns: Columns, tallies: Tallies):
        self.columns, self.circuit, self.parts, self.tallies = columns, columns.circuit, columns.parts, tallies
        self.spiking = [k for k, part in enumerate(self.parts) if part.threshold]

    def lines(self) -> list[str]:
        """Deliveries and Poisson inputs, a barrier after each round but the last where resets need not wait for it."""
        used: Counter[tuple[str, str]] = Counter()
        rounds: dict[int, list[str]] = {}
        for j, p in enumerate(self.circuit.projections):
            if j in self.columns.counted:
                continue
            if is_ordered(p):
                number = max(used[p.target, v] for v, _ in p.effects)
                rounds.setdefault(number, []).extend(self._ordered(j))
                used.update({(p.target, v): number + 1 - used[p.target, v] for v, _ in p.effects})
                continue
            for e, (variable, _) in enumerate(p.effects):
                rounds.setdefault(used[p.target, variable], []).extend(self._delivery(j, e, variable))
                used[p.target, variable] += 1
        delivered, earliest = max(rounds, default=-1), 0
        for m, entry in enumerate(self.columns.poisson):
            # Words are taken in the order of the inputs: an input must not come before the one listed before it.
            earliest = max(earliest, used[entry.target, entry.variable])
            rounds.setdefault(earliest, []).extend(self._poisson(m))
            used[entry.target, entry.variable] = earliest + 1
        last = max(rounds, default=-1)
        lines = [line for r in range(last + 1) for line in [*rounds[r], SYNC]]
        # Counts change nothing that a round, a reset or a record sees: they need no barrier of their own.
        lines = [*self.tallies.lines(), *lines]
        return lines[:-1] if last > delivered and self._resets_are_apart() else lines

    def _resets_are_apart(self) -> bool:
        """Whether resets leave be what Poisson inputs add to: they need not wait for a round of those alone."""
        added = {(entry.target, entry.variable) for entry in self.columns.poisson}
        resets = {self.parts[k].name: self.parts[k].reset for k in self.spiking}
        return not any(
            variable in {s.target for s in resets.get(name, ())} or uses(texts(resets.get(name, ())), variable)
            for name, variable in added
        )

    def note_bases(self) -> list[str]:
        """Where the rows of a projection begin, in shared memory."""
        c = self.columns
        return [
            f"            P[{c.projection(j, at.BASE)}] = layout[{c.scratch(j, at.SCRATCH_ROWS)}]"
            for j, p in enumerate(self.circuit.projections)
            if p.effects and not is_ordered(p)
        ]

    def _past(self, j: int) -> list[str]:
        """Where the list of the spikes begins that projection j delivers in this step."""
        source = self.columns.position(self.circuit.projections[j].source)
        return [
            f"                past = np.int32(now - P[{self.columns.projection(j, at.DELAY)}])",
            f"                past = np.uint32({source} * depth + (np.int32(past + depth) if past < 0 else past))",
        ]

    def _delivery(self, j: int, effect: int, variable: str) -> list[str]:
        p, c = self.circuit.projections[j], self.columns
        source, target = c.position(p.source), c.position(p.target)
        masked = variable in self.parts[target].held
        rows = f"tid, T, indptr, P[{c.projection(j, at.BASE)}], targets"
        spikes = (
            f"R[np.uint32({c.weight(j, effect)})], spikes_{source}, capacity_{source}, starts[past], rings[past], "
            f"a{target}_{variable}"
        )
        call = f"deliver_masked({rows}, {spikes}, rest_{target})" if masked else f"deliver({rows}, {spikes})"
        return [
            f"            if P[{c.projection(j, at.PRESENT)}] == 1:",
            *self._past(j),
            "                if rings[past] > 0:",
            f"                    {call}",
        ]

    def _ordered(self, j: int) -> list[str]:
        """Spikes one after another, in the order of their sources: shortest delay first, effects in order."""
        p, c = self.circuit.projections[j], self.columns
        source, target = c.position(p.source), c.position(p.target)
        lines = [
            f"            for g in range(P[{c.projection(j, at.GROUPS)}]):",
            f"                ago = np.int32(now - given_delays[P[{c.projection(j, at.DELAYS_AT)}] + g])",
            "                if ago < 0:",
            "                    ago = np.int32(ago + depth)",
            f"                past = np.uint32({source} * depth + ago)",
            "                if rings[past] > 0:",
            f"                    row = P[{c.projection(j, at.ROWS_AT)}] + g * (n_{source} + 1)",
        ]
        for e, (variable, expression) in enumerate(p.effects):
            masked = variable in self.parts[target].held
            each = p.varies_by_synapse(expression)
            gains = f"True, gain{j}_{e}" if p.has_state else "False, R"
            arguments = (
                f"tid, T, given_indptr, row, given_targets, R[np.uint32({c.weight(j, e)})], {each}, given_weights, "
                f"{e}, {gains}, spikes_{source}, capacity_{source}, starts[past], rings[past], a{target}_{variable}"
            )
            call = f"deliver_each({arguments})"
            if masked:
                call = f"deliver_each_masked({arguments}, rest_{target})"
            lines.append(f"                    {call}")
        return lines

    def _poisson(self, m: int) -> list[str]:
        c, entry = self.columns, self.columns.poisson[m]
        target = c.position(entry.target)
        masked = entry.variable in self.parts[target].held
        mode, first, driven, table, length = (
            f"P[{c.input(m, w)}]" for w in (at.MODE, at.FIRST, at.DRIVEN, at.TABLE, at.LENGTH)
        )
        variable = f"R[np.uint32({c.poisson_weight(m)})], a{target}_{entry.variable}, rest_{target}, {masked}"
        random = f"words, key_0, key_1, {POISSON_STREAM}"
        return [
            f"            if {mode} == {EVENTS} or {mode} == {PAIRS}:",
            # The word after the last was that of the number of events.
            "                offset, ready, runs = poisson_events(tid, T, np.int32((offset + 1) & 2047), "
            f"np.int32(ready - 1), runs, events_{m}, {mode}, {driven}, {variable}, {random})",
            f"            elif {mode} == {COUNTS}:",
            f"                offset, ready, runs = poisson_counts(tid, T, offset, ready, runs, {first}, thresholds, "
            f"{table}, {length}, guide[sim, {m}], {driven}, {variable}, {random})",
        ]
