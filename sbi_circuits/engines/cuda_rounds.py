"""Source text of what is added to the state in a step: spikes delivered and Poisson inputs, in rounds.

No variable is added to twice in one round, so that sums do not depend on the order of threads.
"""

from collections import Counter

from sbi_circuits.engines import cuda_columns as at
from sbi_circuits.engines.cuda_columns import Columns, is_ordered
from sbi_circuits.engines.cuda_printer import texts, uses

POISSON_STREAM = 1
SYNC = "            cuda.syncthreads()"


class Rounds:
    """Prints the rounds of a step of one circuit.

    Args:
        columns: the circuit and its translations.
    """

    def __init__(self, columns: Columns):
        self.columns, self.circuit, self.parts = columns, columns.circuit, columns.parts
        self.spiking = [k for k, part in enumerate(self.parts) if part.threshold]

    def lines(self) -> list[str]:
        """Deliveries and Poisson inputs, a barrier after each round."""
        used: Counter[tuple[str, str]] = Counter()
        rounds: dict[int, list[str]] = {}
        for j, p in enumerate(self.circuit.projections):
            if is_ordered(p):
                number = max(used[p.target, v] for v, _ in p.effects)
                rounds.setdefault(number, []).extend(self._ordered(j))
                used.update({(p.target, v): number + 1 - used[p.target, v] for v, _ in p.effects})
                continue
            for e, (variable, _) in enumerate(p.effects):
                rounds.setdefault(used[p.target, variable], []).extend(self._delivery(j, e, variable))
                used[p.target, variable] += 1
        delivered, earliest, first = max(rounds, default=-1), 0, max(rounds, default=-1) + 1
        for m, entry in enumerate(self.columns.poisson):
            # Words are taken in the order of the inputs: an input must not come before the one listed before it.
            earliest = max(earliest, used[entry.target, entry.variable])
            first = min(first, earliest)
            rounds.setdefault(earliest, []).extend(self._poisson(m))
            used[entry.target, entry.variable] = earliest + 1
        # Before resets there is a barrier in any case: counts are read before their place is cleared below.
        lines = [line for r in range(first, max(rounds, default=-1) + 1) for line in [*rounds[r], SYNC]]
        if delivered < first and self._resets_are_apart():
            lines = lines[:-1]
        return [*self._where_spikes_fly([rounds[r] for r in range(first)]), SYNC, *lines]

    def _where_spikes_fly(self, rounds: list[list[str]]) -> list[str]:
        """What a step with nothing to deliver leaves out: rounds of deliveries alone, with barriers between them."""
        none = [f"            begin_{j}, stop_{j} = np.int32(0), np.int32(0)" for j in self._read_ahead_of()]
        lines = [*self._read_ahead(), *[line for each in rounds for line in [*each, SYNC]][:-1]]
        return [*none, "            if flying > 0:", *("    " + line for line in lines)] if lines else []

    def _resets_are_apart(self) -> bool:
        """Whether resets leave be what Poisson inputs add to: they need not wait for a round of those alone."""
        added = {(entry.target, entry.variable) for entry in self.columns.poisson}
        resets = {self.parts[k].name: self.parts[k].reset for k in self.spiking}
        return not any(
            variable in {s.target for s in resets.get(name, ())} or uses(texts(resets.get(name, ())), variable)
            for name, variable in added
        )

    def _read_ahead(self) -> list[str]:
        """The first rows of all projections and their targets: two waits for device memory, not two for each."""
        c = self.columns
        rows, targets = [], []
        for j in self._read_ahead_of():
            source = c.position(self.circuit.projections[j].source)
            base, spikes = f"P[{c.projection(j, at.BASE)}]", f"spikes_{source}, capacity_{source}"
            rows += [
                f"            if P[{c.projection(j, at.PRESENT)}] == 1:",
                *self._past(j),
                f"                begin_{j}, stop_{j} = first_row(tid, T, indptr, {base}, {spikes}, starts[past], "
                "rings[past])",
            ]
            targets += [
                f"            if stop_{j} > begin_{j}:",
                *self._past(j),
                f"                ask_for_row(tid, T, begin_{j}, stop_{j}, rings[past], targets)",
            ]
        return rows + targets

    def bases(self, source: int) -> list[int]:
        """Columns of where the rows of a population's projections begin, those that are delivered row by row."""
        c = self.columns
        return [
            c.projection(j, at.BASE)
            for j, p in enumerate(self.circuit.projections)
            if p.effects and not is_ordered(p) and c.position(p.source) == source
        ]

    def note_bases(self) -> list[str]:
        """Copies of where rows begin, in shared memory."""
        c = self.columns
        return [
            f"            P[{c.projection(j, at.BASE)}] = layout[{c.scratch(j, at.SCRATCH_ROWS)}]"
            for j, p in enumerate(self.circuit.projections)
            if p.effects and not is_ordered(p)
        ]

    def _read_ahead_of(self) -> list[int]:
        """The projections whose spikes add the same to targets that always take it."""
        held = {part.name: part.held for part in self.parts}
        return [
            j for j, p in enumerate(self.circuit.projections)
            if not is_ordered(p) and any(variable not in held[p.target] for variable, _ in p.effects)
        ]  # fmt: skip

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
        call = f"deliver({rows}, begin_{j}, stop_{j}, {spikes})"
        if masked:
            call = f"deliver_masked({rows}, {spikes}, until_{target}, now32)"
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
                call = f"deliver_each_masked({arguments}, until_{target}, now32)"
            lines.append(f"                    {call}")
        return lines

    def _poisson(self, m: int) -> list[str]:
        c, entry = self.columns, self.columns.poisson[m]
        target = c.position(entry.target)
        masked = entry.variable in self.parts[target].held
        mode, first, driven, table, length = (
            f"P[{c.input(m, w)}]" for w in (at.MODE, at.FIRST, at.DRIVEN, at.TABLE, at.LENGTH)
        )
        variable = f"R[np.uint32({c.poisson_weight(m)})], a{target}_{entry.variable}, until_{target}, now32, {masked}"
        random = f"words, key_0, key_1, {POISSON_STREAM}"
        return [
            f"            if {mode} == 1:",
            f"                filled = poisson_events(tid, T, position + 1, events_{m}, filled, {driven}, "
            f"{variable}, {random})",
            f"                position += 1 + events_{m}",
            f"            elif {mode} == 2:",
            f"                filled = poisson_counts(tid, T, position, filled, {first}, thresholds, {table}, "
            f"{length}, guide[sim, {m}], {driven}, {variable}, {random})",
            f"                position += {driven}",
        ]
