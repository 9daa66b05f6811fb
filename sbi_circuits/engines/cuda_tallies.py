"""Source text of deliveries that count: spikes on their way to a neuron as whole numbers, added up in the next step.

A float in shared memory is added to by compare-and-swap, again and again where threads meet; a whole number is added
to by one instruction. So a spike adds one to a byte that its projection has at each target, all projections in one
phase without a barrier, and the update of the next step adds what a projection's spikes amount to: weight times
number, one rounding instead of one for each spike. The order in which spikes come makes no difference at all.

The rows of all projections from one population with one delay are joined once, when they have been drawn, the words of
the counts in place of the targets. So a warp takes a spike and walks one row, the parts of which differ in the byte.
"""

from sbi_circuits.engines import cuda_columns as at
from sbi_circuits.engines.cuda_columns import FIELDS, Columns

MOST = 255  # that a byte counts
WORDS = 2**16  # of counts that a joined row can name


class Tallies:
    """Prints what counts spikes in the kernel of one circuit.

    Args:
        columns: the circuit and its translations.
    """

    def __init__(self, columns: Columns):
        self.columns, self.circuit, self.groups = columns, columns.circuit, columns.groups
        self.populations = [k for k in range(len(columns.parts)) if columns.fields(k)]
        # What reads the state before the update does wants the sums there.
        summed = any(link.summed for link in columns.links.values())
        self.early = bool(self.populations) and (summed or bool(columns.outputs))

    def names(self, k: int) -> str:
        """Arrays of the counts of population k as arguments, in the kernel and in a function alike."""
        return "".join(f", tally{k}_{w}" for w in range(self.columns.tallies(k)))

    def heard_names(self, k: int) -> str:
        """Further arguments of the update of population k."""
        return "" if self.early else self.names(k)

    def _word(self, k: int, w: int) -> str:
        """Where the words w of population k begin."""
        return f"P[{self.columns.population(k, at.TALLY_AT)}] + {w} * P[{self.columns.population(k, at.SIZE)}]"

    def views(self, k: int) -> list[str]:
        """The counts of population k in the memory of its state."""
        return [
            f"        tally{k}_{w} = large_int[{self._word(k, w)} : {self._word(k, w + 1)}]"
            for w in range(self.columns.tallies(k))
        ]

    def starts(self, k: int) -> list[str]:
        """Nothing is on its way at first; in the loop over neurons j."""
        return [f"            tally{k}_{w}[j] = 0" for w in range(self.columns.tallies(k))]

    def lags(self) -> list[str]:
        """The delay of each group, those projections left out that a configuration does not have."""
        lines = []
        for g, (_, members) in enumerate(self.groups):
            lines.append(f"        lag_{g} = np.int32(0)")
            lines += [f"        lag_{g} = max(lag_{g}, P[{self.columns.projection(j, at.DELAY)}])" for j in members]
        return lines

    def join(self) -> list[str]:
        """The rows of each group, once those of all projections have been drawn and fit."""
        c, lines = self.columns, []
        for g, (source, members) in enumerate(self.groups):
            n, rows, count = f"n_{source}", f"layout[{c.group(g, at.GROUP_ROWS)}]", len(members)
            bases = [f"layout[{c.scratch(j, at.SCRATCH_ROWS)}]" for j in members]
            lines += [f"note_lengths(tid, T, {n}, indptr, {base}, {rows}, {count}, {part})"
                      for part, base in enumerate(bases)]  # fmt: skip
            start = f"layout[{c.group(g, at.GROUP_SYNAPSES)}]"
            lines += ["cuda.syncthreads()", f"lengths_to_rows(tid, T, {count} * {n}, indptr, {rows}, {start}, scan)"]
            for part, (j, base) in enumerate(zip(members, bases, strict=True)):
                word = self._word(c.position(self.circuit.projections[j].target), c.field(j)[0])
                lines.append(f"join_rows(tid, T, {n}, indptr, {base}, {rows}, {count}, {part}, targets, {word})")
        lines = ["cuda.syncthreads()", *lines]
        return ["        if lacking <= 0:", *(f"            {line}" for line in lines)] if self.groups else []

    def touched(self, k: int) -> list[str]:
        """Variables of population k that counted spikes add to."""
        fields = self.columns.fields(k)
        return list(dict.fromkeys(v for j in fields for v, _ in self.circuit.projections[j].effects))

    def weights(self, k: int) -> list[str]:
        """What one spike adds, read from shared memory."""
        return [
            f"    add{j}_{e}_ = R[np.uint32({self.columns.weight(j, e)})]"
            for j in self.columns.fields(k)
            for e in range(len(self.circuit.projections[j].effects))
        ]

    def hearing(self, k: int, reached: str) -> list[str]:
        """A neuron adds up what was counted, in the body of a loop over neurons `at_`."""
        held, lines = self.columns.parts[k].held, []
        for w in range(self.columns.tallies(k)):
            lines += [f"        heard_ = np.uint32(tally{k}_{w}[at_])", f"        tally{k}_{w}[at_] = 0"]
            for j in self.columns.fields(k)[FIELDS * w : FIELDS * (w + 1)]:
                lines.append(f"        times_ = real(byte_of(heard_, {self.columns.field(j)[1]}))")
                for e, (v, _) in enumerate(self.circuit.projections[j].effects):
                    total = f"{v} + add{j}_{e}_ * times_"
                    lines.append(f"        {v} = {f'{total} if {reached} else {v}' if v in held else total}")
        return lines

    def functions(self) -> list[str]:
        """Two functions for each group of projections, and one for each population that adds up at once."""
        pairs = [f for g in range(len(self.groups)) for f in (self._one(g), self._send(g))]
        return [*pairs, *map(self._hear, self.populations)]

    def _bytes(self, g: int) -> list[tuple[int, int]]:
        """(part, byte) wherever the byte in which a group counts changes."""
        _, members = self.groups[g]
        found = [(part, self.columns.field(j)[1]) for part, j in enumerate(members)]
        return [entry for n, entry in enumerate(found) if n == 0 or entry[1] != found[n - 1][1]]

    def _ends(self, g: int) -> str:
        return "".join(f", end_{n}" for n in range(1, len(self._bytes(g))))

    def _one(self, g: int) -> str:
        """One spike, in the byte of the part of a row that place k lies in."""
        amounts = [f"np.int32({1 << 8 * byte})" for _, byte in self._bytes(g)]
        chosen = "".join(f"{amount} if k < end_{n} else " for n, amount in enumerate(amounts[:-1], start=1))
        return f"@device\ndef one_{g}(k{self._ends(g)}):\n    return {chosen}{amounts[-1]}"

    def _send(self, g: int) -> str:
        ends, parts = self._ends(g), len(self.groups[g][1])
        names = [*(f"end_{n}" for n in range(1, len(self._bytes(g)))), "stop_"]
        places = [*(part for n, (part, _) in enumerate(self._bytes(g)) if n), parts]
        next_row = f"next_begin_, {', '.join(f'next_{name}' for name in names)}"
        row = f"row_{g}(spike_, count_, spikes_, capacity_, start_, indptr_, rows_)"
        lines = [
            "@device",
            f"def row_{g}(spike_, count_, spikes_, capacity_, start_, indptr_, rows_):",
            "    place_ = np.int32(start_ + min(spike_, np.int32(count_ - 1)))",
            "    if place_ >= capacity_:",
            "        place_ = np.int32(place_ - capacity_)",
            f"    row_ = np.uint64(np.uint32(rows_ + {parts} * spikes_[np.uint32(place_)]))",
            f"    return indptr_[row_], {', '.join(f'indptr_[row_ + np.uint64({part})]' for part in places)}",
            "",
            "@device",
            f"def send_{g}(tid_, threads_, spikes_, capacity_, start_, count_, indptr_, rows_, targets_, tally_):",
            "    warps_, lane_ = np.int32(threads_ >> LANE_BITS), np.int32(tid_ & np.int32(LANES - 1))",
            "    spike_ = np.int32(tid_ >> LANE_BITS)",
            f"    {next_row} = {', '.join(['np.int32(0)'] * (1 + len(names)))}",
            "    if spike_ < count_:",
            f"        {next_row} = {row}",
            "    while spike_ < count_:",
            f"        begin_, {', '.join(names)} = {next_row}",
            "        spike_ = np.int32(spike_ + warps_)",
            # Asked for before this row is waited for; the last one again where there is no next.
            f"        {next_row} = {row}",
            "        k = np.int32(begin_ + lane_)",
            "        at_ = np.uint64(np.uint32(k))",
            "        while k < stop_:",
            "            j0, j1, j2, j3 = read_four(targets_, at_, np.int32(stop_ - k))",
            "            k1, k2, k3 = np.int32(k + LANES), np.int32(k + 2 * LANES), np.int32(k + 3 * LANES)",
            f"            cuda.atomic.add(tally_, np.uint32(j0), one_{g}(k{ends}))",
            *(line for n in (1, 2, 3) for line in (
                f"            if k{n} < stop_:",
                f"                cuda.atomic.add(tally_, np.uint32(j{n}), one_{g}(k{n}{ends}))",
            )),
            "            k, at_ = np.int32(k3 + LANES), at_ + np.uint64(4 * LANES)",
        ]  # fmt: skip
        return "\n".join(lines)

    def _hear(self, k: int) -> str:
        touched = self.touched(k)
        lines = [
            "@device",
            f"def hear_{k}(tid_, threads_, cells_{''.join(f', a_{v}' for v in touched)}, rest_{self.names(k)}, R):",
            *self.weights(k),
            "    number_ = np.int32(tid_)",
            "    while number_ < cells_:",
            "        at_ = np.uint32(number_)",
            "        reached_ = rest_[at_] == 0",
            *(f"        {v} = a_{v}[at_]" for v in touched),
            *self.hearing(k, "reached_"),
            *(f"        a_{v}[at_] = {v}" for v in touched),
            "        number_ = np.int32(number_ + threads_)",
        ]
        return "\n".join(lines)

    def hear(self) -> list[str]:
        """All populations add up, between two barriers of the kernel."""
        return [
            f"hear_{k}(tid, T, n_{k}{''.join(f', a{k}_{v}' for v in self.touched(k))}, rest_{k}{self.names(k)}, R)"
            for k in self.populations
        ]

    def before(self) -> list[str]:
        """At the beginning of a step, where something reads the state before the update does."""
        if not self.early:
            return []
        return [*(f"            {line}" for line in self.hear()), "            cuda.syncthreads()"]

    def lines(self) -> list[str]:
        """The deliveries of one step; where a byte might not do, in turns with sums in between."""
        lines = []
        for g, (source, _) in enumerate(self.groups):
            lines += [
                f"            past = np.int32(now - lag_{g})",
                f"            past = np.uint32({source} * depth + (np.int32(past + depth) if past < 0 else past))",
                f"            start_{g}, sent_{g} = starts[past], rings[past]",
            ]
        if not self.groups:
            return []
        most = "max(" * (len(self.groups) - 1) + "sent_0" + "".join(f", sent_{g})" for g in range(1, len(self.groups)))
        lines += [
            f"            turns, done = {most}, np.int32(0)",
            "            while done < turns:",
            "                if done > 0:",
            "                    cuda.syncthreads()",
            *(f"                    {line}" for line in self.hear()),
            "                    cuda.syncthreads()",
            *(f"                send_{g}(tid, T, spikes_{k}, capacity_{k}, np.int32(start_{g} + done), "
              f"min(np.int32(sent_{g} - done), np.int32({MOST})), indptr, rows_{g}, targets, large_int)"
              for g, (k, _) in enumerate(self.groups)),
        ]  # fmt: skip
        return [*lines, f"                done = np.int32(done + {MOST})"]

    def rows(self) -> list[str]:
        """Where the rows of each group begin."""
        return [f"        rows_{g} = layout[{self.columns.group(g, at.GROUP_ROWS)}]" for g in range(len(self.groups))]
