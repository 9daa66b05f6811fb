"""Plans: which simulations a campaign is made of, and what each of them starts from."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sbi_circuits.circuit import Circuit
from sbi_circuits.digests import digest
from sbi_circuits.engines import ENGINES, Protocol, default_engine
from sbi_circuits.engines.setup import check_stimuli
from sbi_circuits.errors import TableError, UnknownNameError
from sbi_circuits.features import FeatureSet
from sbi_circuits.prior import Prior
from sbi_circuits.table import Manifest, replace_file

PROPOSAL_FILE = "proposal.parquet"
_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True, eq=False)
class TableProposal:
    """Configurations given one by one: simulation i starts from theta[i].

    Args:
        theta: (n, P) in the declared units of the prior.
        name: what they are, as it will stand in the table.
        weight: (n,) density of the prior over the density theta was drawn from, on average 1 over all that is
            trained on together; ones where None: draws of the prior, or of a part of it.

    Raises:
        TableError: if theta is not a finite matrix, or weights are negative or too few.

    Examples:
        >>> TableProposal(np.array([[0.5, 2.0]]), "posterior of well A1").label[:21]
        'posterior of well A1@'
    """

    theta: np.ndarray
    name: str
    weight: np.ndarray | None = None

    def __post_init__(self) -> None:
        theta = np.ascontiguousarray(self.theta, dtype=np.float64)
        if theta.ndim != 2 or not np.isfinite(theta).all():
            raise TableError(f"the proposal {self.name!r}, {theta.shape}, is not a finite matrix (n, P)")
        object.__setattr__(self, "theta", theta)
        weight = np.ones(len(theta)) if self.weight is None else np.array(self.weight, dtype=np.float64)
        if weight.shape != (len(theta),) or not (np.isfinite(weight) & (weight >= 0)).all():
            raise TableError(f"the proposal {self.name!r} needs one weight >= 0 per configuration")
        object.__setattr__(self, "weight", weight)

    @property
    def weights(self) -> np.ndarray:
        """(n,) the weights; ones where none were given."""
        assert self.weight is not None
        return self.weight

    @cached_property
    def digest(self) -> str:
        """SHA-256 of name, configurations and weights."""
        head = f"{self.name}\x1f{self.theta.shape}".encode()
        return sha256(head + self.theta.tobytes() + self.weights.tobytes()).hexdigest()

    @property
    def label(self) -> str:
        """Name and digest: how the table's rows name it."""
        return f"{self.name}@{self.digest[:12]}"

    def save(self, path: Path) -> None:
        """Write one Parquet file."""
        names = [str(k) for k in range(self.theta.shape[1])]
        sink = pa.BufferOutputStream()
        columns = [*self.theta.T, self.weights]
        content = pa.table(columns, names=[*names, "weight"]).replace_schema_metadata({"name": self.name})
        pq.write_table(content, sink, compression="zstd")
        replace_file(path, sink.getvalue())

    @classmethod
    def load(cls, path: Path) -> "TableProposal":
        """The proposal a campaign kept in its folder; raises `TableError`."""
        try:
            with pq.ParquetFile(path) as file:
                content = file.read()
        except (pa.ArrowException, OSError) as error:
            raise TableError(f"cannot read the proposal {path}: {error}") from error
        *theta, weight = (c.to_numpy() for c in content.columns)
        return cls(np.column_stack(theta), content.schema.metadata[b"name"].decode(), weight)


@dataclass(frozen=True, eq=False)
class Campaign:
    """A resumable plan: n simulations of a circuit, measured; running it fills a table.

    Simulation i depends on the seed and on i alone, so n can grow, and workers, order, the size of a unit and
    interruptions change nothing.

    Args:
        circuit: what to simulate.
        n: how many simulations.
        feature_set: what to measure.
        protocol: how long to simulate and what to record.
        seed: of the campaign, 0 <= seed < 2^63.
        engine: "auto" or the name of an engine.
        unit: simulations per unit of work: what is lost at most when a worker is killed.
        prior: another prior over the circuit's parameters.
        proposal: configurations to use in place of draws from the prior.
        keep_recordings: keep the recording of every so many-th simulation that ended ok beside the table (see
            `table_recordings.Recordings`); True or 1 keeps each, so that all can be measured again. None where 0.

    Raises:
        TableError: numbers that cannot be; a proposal with fewer than n configurations.
        PriorError: a proposal outside the prior, a prior that does not fit the circuit.
        UnknownNameError: an unknown engine.
        CircuitError: a stimulus that ends before the simulations do.
    """

    circuit: Circuit
    n: int
    feature_set: FeatureSet
    protocol: Protocol
    seed: int = 0
    engine: str = "auto"
    unit: int = 16
    prior: Prior | None = None
    proposal: TableProposal | None = None
    keep_recordings: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        for name, low, high in (("n", 1, 10**10 - 1), ("unit", 1, 10**10 - 1), ("seed", 0, _LARGEST_SEED)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise TableError(f"{name} of a campaign must be from {low} to {high}, got {value}")
        if self.keep_recordings < 0:
            raise TableError(f"keep_recordings of a campaign must be 0 or above, got {self.keep_recordings}")
        name = default_engine(self.circuit) if self.engine == "auto" else self.engine
        if name not in ENGINES:
            raise UnknownNameError("engine", name, ["auto", *ENGINES])
        object.__setattr__(self, "engine", name)
        if self.prior is not None:
            object.__setattr__(self, "circuit", self.circuit.with_prior(self.prior))
            object.__setattr__(self, "prior", None)
        check_stimuli(self.circuit, self.protocol)
        self._check_proposal()
        self._check_channels()

    def _check_proposal(self) -> None:
        if self.proposal is None:
            return
        if len(self.proposal.theta) < self.n:
            have = f"the proposal {self.proposal.name!r} has {len(self.proposal.theta)} configurations"
            raise TableError(f"{have}, {self.n} are needed")
        self.circuit.prior.validate(self.proposal.theta)

    def _check_channels(self) -> None:
        # Otherwise every single simulation would fail in its measurement.
        features, kept = self.feature_set, self.protocol.record.spikes
        wanted = features.n_channels * features.cells_per_channel
        if features.view == "channels" and 0 <= kept < wanted:
            raise TableError(f"the features need the spikes of {wanted} cells; the protocol records {kept}")

    @cached_property
    def manifest(self) -> Manifest:
        """What the table's rows are of."""
        proposal = "prior" if self.proposal is None else self.proposal.label
        protocol = asdict(self.protocol)
        # The step counts, not whether it was written out; and so does each part of the record.
        protocol["dt"] = self.protocol.dt or self.circuit.dt
        flat = {**protocol.pop("record"), **protocol}
        if not flat["signals"]:  # so that tables from before there were signals keep their digest
            del flat["signals"], flat["signal_rate"]
        else:
            flat["signals"] = list(flat["signals"])  # as it is read back
        return Manifest.of(self.circuit, self.feature_set, flat, self.engine, self.seed, proposal)

    @property
    def digest(self) -> str:
        """SHA-256 of what the simulations are of; how many, and in what units, does not matter."""
        return digest(self.manifest.identity())

    def theta(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Configurations (len(indices), P) of some simulations, declared units."""
        if self.proposal is not None:
            return self.proposal.theta[np.asarray(indices, dtype=np.int64)]
        # One by one: the vector units may round a row in a batch another way.
        rows = [self.circuit.prior.sample(1, self.seed, start=int(i))[0] for i in indices]
        return np.array(rows).reshape(len(rows), len(self.circuit.prior))

    def weight(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Importance weights (len(indices),) of some simulations; ones for draws of the prior."""
        chosen = np.asarray(indices, dtype=np.int64)
        return np.ones(len(chosen)) if self.proposal is None else self.proposal.weights[chosen]

    def grow(self, n: int) -> "Campaign":
        """The same campaign with more simulations."""
        return replace(self, n=n)


def units(indices: np.ndarray, size: int) -> Iterator[tuple[int, int]]:
    """Ranges (start, stop) that cover sorted indices and nothing else; none crosses a multiple of `size`.

    Examples:
        >>> list(units(np.array([0, 1, 2, 3, 4, 7]), 4))
        [(0, 4), (4, 5), (7, 8)]
    """
    if not len(indices):
        return
    breaks = np.flatnonzero((np.diff(indices) != 1) | (indices[1:] % size == 0)) + 1
    for run in np.split(indices, breaks):
        yield int(run[0]), int(run[-1]) + 1
