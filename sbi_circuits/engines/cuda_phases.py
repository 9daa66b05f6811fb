"""Source text of one time step of a CUDA kernel, phase by phase, and of what ends a simulation."""

from collections.abc import Iterator
from itertools import count

from sbi_circuits.engines import cuda_columns as at
from sbi_circuits.engines.cuda_columns import Columns
from sbi_circuits.engines.cuda_links import emission, summed
from sbi_circuits.engines.cuda_rounds import POISSON_STREAM, SYNC, Rounds
from sbi_circuits.engines.cuda_signals import signal_lines
from sbi_circuits.engines.cuda_state import States
from sbi_circuits.engines.cuda_tallies import Tallies
from sbi_circuits.engines.poisson_table import COUNTS, EVENTS, NONE, PAIRS

_EVENTS = 3  # entry of `control` (see `cuda_parts`)


def _turned(job: Iterator[int]) -> str:
    """A thread's number for the next short job of a phase: each job falls to another warp."""
    number = next(job)
    return f"turned(tid, T, {number})" if number else "tid"


class Phases:
    """Prints the phases of a step of one circuit.

    Args:
        columns: the circuit and its translations.
        single: precision of the state.
        states: how an update takes the state.
    """

    def __init__(self, columns: Columns, single: bool, states: States):
        self.columns, self.single, self.states = columns, single, states
        self.circuit, self.parts, self.links = columns.circuit, columns.parts, columns.links
        self.tallies = Tallies(columns)
        self.rounds = Rounds(columns, self.tallies)
        self.spiking = self.rounds.spiking

    def functions(self) -> list[str]:
        """Functions of the couplings."""
        first = self.columns.link_invariant
        emissions = [emission(j, link, first(j), self.single) for j, link in self.links.items() if link.update]
        return self.plan_function() + self.tallies.functions() + emissions + [
            summed(j, e, link, first(j), self.single) for j, link in self.links.items() for e in range(len(link.summed))
        ]

    def step(self) -> list[str]:
        """One time step."""
        return [
            "            now32 = np.int32(step)",
            "            t = real(step * dt)",
            *self._shared_inputs(),
            *self._before(),
            *self._updates(),
            *self._refill(),
            SYNC,
            *self._spikes_of_the_step(),
            *self._events(),
            *self._plan_next(),
            *self._emissions(),
            *self.rounds.lines(),
            *self._resets(),
            *self._stop(),
        ]

    def _state(self, k: int) -> str:
        part = self.parts[k]
        return "".join([*(f", a{k}_{v}" for v in part.variables), *(f", x{k}_{n}" for n in part.shared)])

    def _shared_inputs(self) -> list[str]:
        lines = []
        for k, part in enumerate(self.parts):
            for n, name in enumerate(part.shared):
                row, index = self.columns.shared_row(k) + n, f"next{k}_{name}"
                lines += [
                    f"            while {index} < step_at.shape[2] and step_at[sim, {row}, {index}] <= step:",
                    f"                x{k}_{name} = step_value[sim, {row}, {index}]",
                    f"                {index} = np.int32({index} + 1)",
                ]
        return lines

    def _before(self) -> list[str]:
        """Sums over synapses, then the step's noise, which the update reads."""
        lines = self.tallies.before()
        for j, link in self.links.items():
            source, target = self.columns.position(link.source), self.columns.position(link.target)
            column = self.columns.projection(j, at.SUM_AT)
            for e, (variable, _) in enumerate(link.summed):
                arrays = [f"a{source}_{n}" for n in link.pre] + [f"a{target}_{n}" for n in link.post]
                lines += [
                    f"            if P[{column}] >= 0:",
                    f"                sum_{j}_{e}(tid, T, n_{target}, given_indptr, P[{column}], given_targets, "
                    f"given_weights, a{target}_{variable}, {', '.join(arrays)}, R)",
                    "                cuda.syncthreads()",
                ]
        fill = "normals_single" if self.single else "normals_double"
        noise = [
            f"            {fill}(tid, T, z{k}_{z}, n_{k}, {self.columns.noise_number(k) + row}, step, key_0, key_1)"
            for k, part in enumerate(self.parts)
            for row, z in enumerate(part.noise)
        ]
        return [*lines, *noise, *([SYNC] if noise else []), *signal_lines(self.columns)]

    def _updates(self) -> list[str]:
        lines = []
        for k, part in enumerate(self.parts):
            place = f"np.uint32({k} * depth + now)"
            varies = self.circuit.populations[k].refractory_varies
            hold = f"P[{self.columns.population(k, at.HOLD)}]"
            hold = f"holds[sim, cells_{k} : cells_{k} + n_{k}]" if varies else hold
            noise = "".join(f", z{k}_{z}" for z in part.noise)
            lines += [
                f"            head_{k} = starts[{place}]",
                f"            first = np.int32(tid - P[{self.columns.population(k, at.TURN)}])",
                "            if first < 0:",
                "                first = np.int32(first + T)",
                f"            update_{k}(first, T, n_{k}{self.states.arguments(k)}{noise}"
                f"{self.tallies.heard_names(k)}, rest_{k}, spikes_{k}, capacity_{k}, head_{k}, rings, {place}, "
                f"{hold}, t, R)",
            ]
        return lines

    def first_words(self) -> list[str]:
        """The first two runs of random words for Poisson inputs."""
        if not self.columns.poisson:
            return []
        return [
            f"        fill(tid, T, words, np.int64(0), key_0, key_1, {POISSON_STREAM})",
            f"        fill(tid, T, words, np.int64(1024), key_0, key_1, {POISSON_STREAM})",
            "        coming, offset, ready, runs = np.int32(0), np.int32(0), np.int32(2048), np.int32(2)",
        ]

    def plan_function(self) -> list[str]:
        """How many events each Poisson input has in a step whose first word is `ahead` places after the next."""
        c = self.columns
        if not c.poisson:
            return []
        lines = [
            "@device",
            "def plan_poisson(ahead, offset, ready, runs, sim, P, control, first, words, thresholds, guide, key_0, "
            "key_1):",
        ]
        for m in range(len(c.poisson)):
            mode, first, table, length = (f"P[{c.input(m, w)}]" for w in (at.MODE, at.FIRST, at.TABLE, at.LENGTH))
            lines += [
                f"    if {mode} == {EVENTS} or {mode} == {PAIRS}:",
                f"        word = word_ahead(ahead, offset, ready, runs, words, key_0, key_1, {POISSON_STREAM})",
                f"        events = draw_count(word, {first}, thresholds, {table}, {length}, guide[sim, {m}])",
                f"        control[np.uint32(first + {m})] = events",
                f"        ahead = np.int32(ahead + 1 + words_of(events, {mode}))",
                f"    elif {mode} == {COUNTS}:",
                f"        ahead = np.int32(ahead + P[{c.input(m, at.DRIVEN)}])",
            ]
        return ["\n".join(lines)]

    def plan(self, indent: str, step: str) -> list[str]:
        """One thread looks up the events of a step, while others do something else."""
        place = self._place_of_events(step)
        call = (f"plan_poisson(coming, offset, ready, runs, sim, P, control, {place}, words, thresholds, guide, "
                "key_0, key_1)")  # fmt: skip
        return [f"{indent}if tid == T - 1:", f"{indent}    {call}"] if self.columns.poisson else []

    def _plan_next(self) -> list[str]:
        """That of the next step, whose words come after those of this one."""
        lines = ["            coming = np.int32(0)"] if self.columns.poisson else []
        for m in range(len(self.columns.poisson)):
            mode, driven = (f"P[{self.columns.input(m, w)}]" for w in (at.MODE, at.DRIVEN))
            taken = f"0 if {mode} == {NONE} else 1 + words_of(events_{m}, {mode})"
            lines.append(f"            coming = np.int32(coming + ({driven} if {mode} == {COUNTS} else {taken}))")
        return [*lines, *self.plan("            ", "step + 1")]

    def _place_of_events(self, step: str) -> str:
        """First entry of `control` that has the events of a step; those of the next step lie elsewhere."""
        return f"np.int32({_EVENTS} + (({step}) & 1) * {len(self.columns.poisson)})"

    def _events(self) -> list[str]:
        if not self.columns.poisson:
            return []
        return [
            f"            planned = {self._place_of_events('step')}",
            *(f"            events_{m} = control[np.uint32(planned + {m})]" for m in range(len(self.columns.poisson))),
        ]

    def _refill(self) -> list[str]:
        """The next run of random words, once the one before the last is used up."""
        if not self.columns.poisson:
            return []
        return [
            "            if ready <= 1024:",
            f"                fill(tid, T, words, np.int64(runs) * 1024, key_0, key_1, {POISSON_STREAM})",
            "                ready, runs = np.int32(ready + 1024), np.int32(runs + 1)",
        ]

    def _spikes_of_the_step(self) -> list[str]:
        """How many neurons spiked, and where the spikes of the next step will be counted."""
        return [
            "            ahead = np.int32(now + 1)",
            "            if ahead == depth:",
            "                ahead = np.int32(0)",
            *(f"            count_{k} = rings[np.uint32({k} * depth + now)]" for k in self.spiking),
        ]

    def _emissions(self) -> list[str]:
        """Spikes sorted where their order shows, and synaptic variables of the sources that spiked."""
        lines = [
            f"            sort_spikes(tid, T, spikes_{k}, capacity_{k}, head_{k}, count_{k}, sorting_{k})"
            for k in sorted(self.columns.sorted_populations & set(self.spiking))
        ]
        for j, link in self.links.items():
            if link.update and (k := self.columns.position(link.source)) in self.spiking:
                arrays = "".join(f", a{k}_{n}" for n in link.reads)
                gains = "".join(f", gain{j}_{e}" for e in range(len(self.circuit.projections[j].effects)))
                lines += [
                    f"            if P[{self.columns.projection(j, at.PRESENT)}] == 1:",
                    f"                emit_{j}(tid, T, spikes_{k}, capacity_{k}, head_{k}, count_{k}, n_{k}, "
                    f"spiked_{j}, own_{j}{arrays}{gains}, step, P[{self.columns.projection(j, at.DELAY)}], dt, R)",
                    "                cuda.syncthreads()",
                ]
        return lines

    def _resets(self) -> list[str]:
        lines: list[str] = []
        job = count()
        for k in self.spiking:
            spikes = f"spikes_{k}, capacity_{k}, head_{k}, count_{k}"
            lines += [
                f"            if count_{k} > 0:",
                f"                reset_{k}({_turned(job)}, T, {spikes}{self._state(k)}, t, R)",
                "                if step >= warmup:",
                "                    if keep & 2:",
                f"                        note_intervals({_turned(job)}, T, {spikes}, now32, cells_{k}, last, "
                "number[sim], sums[sim], squares[sim])",
                "                    if keep & 4:",
                f"                        note_spikes({_turned(job)}, T, {spikes}, now32, cells_{k}, slots[sim], "
                "spikes_kept, control)",
            ]
        lines += self._counts()
        if self.spiking:
            lines.append("            if tid == 0:")
        for k in self.spiking:
            lines += [
                f"                after = np.int32(head_{k} + count_{k})",
                f"                starts[np.uint32({k} * depth + ahead)] = np.int32(after - capacity_{k}) "
                f"if after >= capacity_{k} else after",
                f"                rings[np.uint32({k} * depth + ahead)] = 0",
            ]
        return [*lines, "            now = ahead", SYNC]

    def _counts(self) -> list[str]:
        """One thread sums a bin in registers and stores it when the next one begins."""
        if not self.spiking:
            return []
        return [
            "            if tid == keeper and keep & 1 and step >= warmup:",
            "                number_of_bin = np.int64((step - warmup) * bins_per_step + 1e-6)",
            "                if number_of_bin != bin_of_counts:",
            "                    if bin_of_counts >= 0:",
            *(f"                        counts[sim, {k}, bin_of_counts] = held_{k}" for k in self.spiking),
            *(f"                    held_{k} = np.int32(0)" for k in self.spiking),
            "                    bin_of_counts = number_of_bin",
            *(f"                held_{k} = np.int32(held_{k} + count_{k})" for k in self.spiking),
        ]

    def _finite(self) -> str:
        checks = [f"any_not_finite(tid, T, n_{k}, a{k}_{v})" for k, p in enumerate(self.parts) for v in p.variables]
        return f"cuda.syncthreads_or({' | '.join(checks)})"

    def _stop(self) -> list[str]:
        stop = self.circuit.early_stop
        if stop is None:
            return []
        k = self.columns.position(stop.population)
        scale, silent, saturated = (f"levels[sim, {n}]" for n in (at.RULE_SCALE, at.RULE_SILENT, at.RULE_SATURATED))
        return [
            f"            if P[{at.RULE_START}] <= step and step < P[{at.RULE_STOP}]:",
            f"                window += count_{k}",
            f"            if step + 1 == P[{at.RULE_STOP}]:",
            f"                load = {scale} * window",
            f"                if {self._finite()}:",
            "                    code = np.int32(3)",
            f"                elif load <= {silent}:",
            "                    code = np.int32(1)",
            f"                elif load >= {saturated}:",
            "                    code = np.int32(2)",
            "                if code != 0:",
            "                    break",
        ]

    def end(self) -> list[str]:
        """The last bin, the outcome, and the spikes that leave the chip."""
        last = [f"            counts[sim, {k}, bin_of_counts] = held_{k}" for k in self.spiking]
        return [
            f"        if code != 4 and {self._finite()}:",
            "            code = np.int32(3)",
            *(["        if tid == keeper and bin_of_counts >= 0:", *last] if last else []),
            "        if tid == 0:",
            "            status[sim, 0] = code",
            "            status[sim, 1] = control[1]",
            "            status[sim, 2] = lacking",
            "            status[sim, 3] = 0",
            "            if code == 0 and control[1] <= len(spikes_kept):",
            "                status[sim, 3] = cuda.atomic.add(queue, 1, np.int64(control[1]))",
            "        cuda.syncthreads()",
            "        if code == 0 and control[1] <= len(spikes_kept):",
            "            begin = status[sim, 3]",
            "            for s in range(tid, control[1], T):",
            "                if begin + s < len(kept):",
            "                    kept[begin + s] = spikes_kept[s]",
        ]

    def views(self) -> list[str]:
        """Synaptic variables of the projections that have them, in the memory of the state."""
        c, lines = self.columns, []
        for j, link in self.links.items():
            if link.update:
                k = c.position(link.source)
                own, gain, last = (f"P[{c.projection(j, w)}]" for w in (at.OWN_AT, at.GAIN_AT, at.LAST_AT))
                lines += [
                    f"        own_{j} = large_real[{own} : {own} + {len(link.variables)} * n_{k}]",
                    f"        spiked_{j} = large_int[{last} : {last} + n_{k}]",
                ]
                for e in range(len(self.circuit.projections[j].effects)):
                    begin = f"{gain} + {e} * capacity_{k}"
                    lines.append(f"        gain{j}_{e} = large_real[{begin} : {begin} + capacity_{k}]")
        return lines

    def link_starts(self) -> list[str]:
        """Where synaptic variables start."""
        c, lines = self.columns, []
        for j, link in self.links.items():
            if link.update:
                k = c.position(link.source)
                lines.append(f"        for i in range(tid, n_{k}, T):")
                lines += [
                    f"            own_{j}[{row} * n_{k} + i] = R[{c.own_start(j) + row}]"
                    for row in range(len(link.variables))
                ]
                lines.append(f"            spiked_{j}[i] = -P[{c.projection(j, at.DELAY)}]")
        return lines
