"""Where the numbers of one simulation stand in the rows a CUDA kernel reads; the same for source text and host."""

from dataclasses import dataclass
from functools import cached_property

from sbi_circuits.circuit import Circuit, Explicit, PoissonInput, Projection
from sbi_circuits.engines.coupling import Coupling
from sbi_circuits.engines.cuda_printer import uses
from sbi_circuits.engines.rate_program import Output
from sbi_circuits.engines.translate import Translation

# plan (int32, a row per simulation): the first entries, then those of a population, projection and Poisson input.
STEPS, WARMUP, RULE_START, RULE_STOP, KEY_0, KEY_1, FIRST_POPULATION = range(7)
SIZE, HOLD, TURN, STATE_AT, NOISE_AT, REST_AT, SPIKES_AT, CAPACITY, SORT_AT, TALLY_AT, CELLS_AT = range(11)
PER_POPULATION = 11
PRESENT, DELAY, ROWS_AT, GROUPS, DELAYS_AT, SUM_AT, OWN_AT, GAIN_AT, LAST_AT, PER_PROJECTION = range(10)
BASE = DELAYS_AT  # of a projection the device drew: where its rows begin; it has no list of delays
FIRST, DRIVEN, MODE, TABLE, LENGTH, PER_INPUT = range(6)
# levels (float64, a row per simulation)
RULE_SCALE, RULE_SILENT, RULE_SATURATED, FIRST_WIRING = range(4)
# layout (int32): what is known of a whole batch; of a projection, its place in a block's scratch memory.
DEPTH, SCAN, PLAN, STARTS, RINGS, WORDS_AT, CONTROL, LARGE_REALS, LARGE_INTS, LARGE_SHORTS, FIRST_SCRATCH = range(11)
SCRATCH_ROWS, SCRATCH_SYNAPSES, ROOM, PER_SCRATCH = range(4)
GROUP_ROWS, GROUP_SYNAPSES, PER_GROUP = range(3)


FIELDS = 4  # counts in a word, a byte each


def is_ordered(projection: Projection) -> bool:
    """Whether increments differ between synapses or spikes, so that spikes are delivered one after another."""
    return not projection.plain and bool(projection.effects)


@dataclass(frozen=True)
class Columns:
    """A circuit, its translations, and the positions of its numbers.

    Args:
        circuit: what is printed.
        parts: translation of each population.
        links: translation of the projections that need one.
        outputs: translation of the readouts.
        counting: whether spikes that arrive at a neuron are counted (see `cuda_tallies`).
    """

    circuit: Circuit
    parts: tuple[Translation, ...]
    links: dict[int, Coupling]
    outputs: tuple[Output, ...] = ()
    counting: bool = False

    @cached_property
    def poisson(self) -> tuple[PoissonInput, ...]:
        return tuple(i for i in self.circuit.inputs if isinstance(i, PoissonInput))

    @cached_property
    def sorted_populations(self) -> frozenset[int]:
        """Populations whose spikes are sorted, because the order of delivery shows in the sums."""
        return frozenset(self.position(p.source) for p in self.circuit.projections if is_ordered(p))

    @cached_property
    def counted(self) -> tuple[int, ...]:
        """Projections whose spikes are counted until the next step adds them.

        Nothing may see a variable in between: the reset of a neuron that spiked must leave it be, or the neuron not
        take spikes then. No two synapses may join the same pair, so that a neuron hears a spike once.
        """
        return tuple(
            j for j, p in enumerate(self.circuit.projections)
            if self.counting and p.effects and not is_ordered(p) and not isinstance(p.wiring, Explicit)
            and all(self._waits(self.position(p.target), variable) for variable, _ in p.effects)
        )  # fmt: skip

    def _waits(self, k: int, variable: str) -> bool:
        part = self.parts[k]
        return variable in part.held or not (
            variable in {s.target for s in part.reset} or uses([s.expression for s in part.reset], variable)
        )

    def fields(self, k: int) -> tuple[int, ...]:
        """The counted projections onto population k, in the order of their bytes."""
        return tuple(j for j in self.counted if self.position(self.circuit.projections[j].target) == k)

    def tallies(self, k: int) -> int:
        """Words of counts of each neuron of population k."""
        return -(-len(self.fields(k)) // FIELDS)

    def field(self, j: int) -> tuple[int, int]:
        """Word and byte of the counts of projection j at its targets."""
        return divmod(self.fields(self.position(self.circuit.projections[j].target)).index(j), FIELDS)

    @cached_property
    def groups(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """Source population, and the counted projections from it with one delay, ordered by the byte they count in.

        The rows of a group are joined: a spike is counted at all targets of all its projections in one go.
        """
        found: dict[tuple[int, str], list[int]] = {}
        for j in self.counted:
            p = self.circuit.projections[j]
            found.setdefault((self.position(p.source), p.delay), []).append(j)
        return tuple((k, tuple(sorted(members, key=lambda j: self.field(j)[1]))) for (k, _), members in found.items())

    def position(self, population: str) -> int:
        """Number of a population."""
        return next(k for k, part in enumerate(self.parts) if part.name == population)

    def population(self, k: int, what: int) -> int:
        return FIRST_POPULATION + PER_POPULATION * k + what

    def projection(self, j: int, what: int) -> int:
        return self.population(len(self.parts), 0) + PER_PROJECTION * j + what

    def input(self, m: int, what: int) -> int:
        return self.projection(len(self.circuit.projections), 0) + PER_INPUT * m + what

    @property
    def integers(self) -> int:
        return self.input(len(self.poisson), 0)

    def invariant(self, k: int) -> int:
        """First invariant of population k among the reals."""
        return sum(len(part.invariants) for part in self.parts[:k])

    def link_invariant(self, j: int) -> int:
        """First invariant of the coupling of projection j."""
        return self.invariant(len(self.parts)) + sum(len(c.invariants) for n, c in self.links.items() if n < j)

    def weight(self, j: int, effect: int = 0) -> int:
        """What a spike adds in one effect of projection j."""
        before = sum(len(p.effects) for p in self.circuit.projections[:j])
        return self.link_invariant(len(self.circuit.projections)) + before + effect

    def poisson_weight(self, m: int) -> int:
        return self.weight(len(self.circuit.projections)) + m

    def own_start(self, j: int) -> int:
        """Where the variables of projection j start."""
        return self.poisson_weight(len(self.poisson)) + sum(len(c.variables) for n, c in self.links.items() if n < j)

    def readout_invariant(self, k: int) -> int:
        """First invariant of readout k."""
        first = self.own_start(len(self.circuit.projections))
        return first + sum(len(output.invariants) for output in self.outputs[:k])

    @property
    def reals(self) -> int:
        return max(self.readout_invariant(len(self.outputs)), 1)

    @property
    def levels(self) -> int:
        return FIRST_WIRING + len(self.circuit.projections)

    def scratch(self, j: int, what: int) -> int:
        return FIRST_SCRATCH + PER_SCRATCH * j + what

    def group(self, g: int, what: int) -> int:
        return self.scratch(len(self.circuit.projections), 0) + PER_GROUP * g + what

    @property
    def layout(self) -> int:
        return self.group(len(self.groups), 0)

    def starts(self, k: int) -> tuple[tuple[int, str], ...]:
        """(row of the initial values, variable) of the variables of population k that do not start at 0."""
        before = sum(len(self.starts(j)) for j in range(k))
        given = {name for name, _ in self.circuit.populations[k].initial}
        return tuple((before + n, v) for n, v in enumerate(v for v in self.parts[k].variables if v in given))

    @property
    def start_rows(self) -> int:
        return max(sum(len(self.starts(k)) for k in range(len(self.parts))), 1)

    def label_row(self, k: int) -> int:
        """First row of the labels of population k."""
        return sum(p.label_draws for p in self.circuit.populations[:k] if p.labels)

    def shared_row(self, k: int) -> int:
        """First row of the shared inputs of population k."""
        return sum(len(part.shared) for part in self.parts[:k])

    def noise_number(self, k: int) -> int:
        """Number of the first noise of population k."""
        return sum(len(part.noise) for part in self.parts[:k])
