"""Rate networks on a wiring: shared parameters, settling, responses to movies, gradients.

tau dv/dt = -v + rest + sum over edges of sign * count * strength * relu(v_source) + input: forward Euler, tau replaced
by max(tau, dt); v starts at rest and settles on a grey stimulus (Lappalainen et al. 2024, Methods).
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sbi_circuits.connectome.fly import VisualSystem
from sbi_circuits.connectome.kernels import LANES
from sbi_circuits.connectome.models import Models
from sbi_circuits.connectome.sparse import Links, euler_step, kernels, lanes, unlanes
from sbi_circuits.connectome.wiring import Wiring
from sbi_circuits.errors import CircuitError

GREY = 0.5
SETTLE = 2.0  # s: as long as the published read-outs wait on grey (one second before, one within the stimulus)


class RateNetwork:
    """A wiring that runs: its edges made ready, and which cells a movie drives.

    Args:
        wiring: of the cells.
        input_types: types that see: each cell adds the intensity in its column to its input.
        n_columns: of a movie.

    Raises:
        CircuitError: cells of an input type outside the columns, or without one.

    Examples:
        >>> from sbi_circuits.connectome.fly import published_models, visual_system
        >>> network = RateNetwork.of(visual_system(2))
        >>> grey = np.full((1, 20, 19), 0.5, dtype=np.float32)
        >>> network.respond(published_models().take([0]), grey, dt=0.005, settle=0.1).shape  # central cell of each type
        (1, 1, 20, 65)
    """

    def __init__(self, wiring: Wiring, input_types: Sequence[str], n_columns: int):
        self.wiring, self.links, self.n_columns = wiring, Links(wiring), n_columns
        seeing = [wiring.cells(name) for name in input_types]
        for name, cells in zip(input_types, seeing, strict=True):
            if len(cells) != n_columns:
                raise CircuitError(f"input type {name} has {len(cells)} cells, the movie {n_columns} columns")
        self.seeing = np.concatenate([np.zeros(0, dtype=np.int64), *seeing])
        self.input_column = np.tile(np.arange(n_columns), len(input_types))

    @classmethod
    def of(cls, system: VisualSystem, wiring: Wiring | None = None) -> "RateNetwork":
        """The network of a visual system, or the same eye on another wiring, such as a shuffled one."""
        return cls(wiring or system.wiring, system.input_types, system.lattice.n_columns)

    def respond(
        self,
        models: Models,
        movie: np.ndarray,
        dt: float,
        settle: float = SETTLE,
        cells: np.ndarray | None = None,
        workers: int = 1,
    ) -> np.ndarray:
        """Voltages of some cells while each model sees each movie; no gradients.

        Args:
            models: M of this wiring.
            movie: (S, T, C) intensities of S stimuli in T frames, one every `dt`.
            dt: s. settle: s on grey before the first frame.
            cells: (R,) that are recorded; the central cell of each type where None.
            workers: threads; each model runs in one.

        Returns:
            (M, S, T, R) voltages after each frame.

        Raises:
            CircuitError: models of another wiring, a movie of another shape, a dt that is not positive.
        """
        models.require(self.wiring)
        movie = self._movie(movie, dt)
        cells = self.wiring.central() if cells is None else np.asarray(cells)
        blocks = np.ascontiguousarray(_movie_lanes(movie))
        out = np.empty((models.n_models, len(blocks), movie.shape[1], len(cells), LANES), dtype=np.float32)

        def run(m: int) -> None:
            one = self._prepared(models.take([m]), dt)
            settled = self._settled(one, dt, settle)
            for k, block in enumerate(blocks):
                self._run(one, block, settled.copy(), cells, out[m, k])

        with ThreadPoolExecutor(max(workers, 1)) as pool:
            list(pool.map(run, range(models.n_models)))
        flat = out.transpose(0, 1, 4, 2, 3).reshape(models.n_models, -1, *out.shape[2:4])
        return flat[:, : len(movie)]

    def _movie(self, movie: np.ndarray, dt: float) -> np.ndarray:
        movie = np.asarray(movie, dtype=np.float32)
        if movie.ndim != 3 or movie.shape[2] != self.n_columns or 0 in movie.shape:
            raise CircuitError(f"a movie must have shape (stimuli, frames, {self.n_columns}), got {movie.shape}")
        if not dt > 0:
            raise CircuitError(f"dt must be > 0 s, got {dt}")
        return movie

    def _prepared(self, models: Models, dt: float) -> "_Prepared":
        kind = self.wiring.node_type
        weight = self.links.weights(torch.from_numpy(models.strength)).numpy()[0]
        rate = (dt / np.maximum(models.tau[0], dt)).astype(np.float32)
        rest, rate = (np.repeat(a[kind][:, None], LANES, axis=1) for a in (models.rest[0], rate))
        return _Prepared(weight, rest, rate)

    def _settled(self, one: "_Prepared", dt: float, settle: float) -> np.ndarray:
        v = one.rest.copy()
        frames = int(round(settle / dt))
        grey = np.full((1, self.n_columns, LANES), GREY, dtype=np.float32)
        movie = np.broadcast_to(grey, (frames, self.n_columns, LANES))
        nothing = np.empty((frames, 0, LANES), dtype=np.float32)
        self._run(one, np.ascontiguousarray(movie), v, np.zeros(0, dtype=np.int64), nothing)
        return v

    def _run(self, one: "_Prepared", movie: np.ndarray, v: np.ndarray, cells: np.ndarray, out: np.ndarray) -> None:
        rest = (one.weight, one.rest, one.rate, self.seeing, self.input_column, movie, v, cells, out)
        if self.links.runs:
            kernels.euler_runs(*self.links.runs.arrays, *rest)
        else:
            kernels.euler_csr(*self.links.by_target.arrays, *rest)


@dataclass(frozen=True, eq=False)
class _Prepared:
    """One model's weight classes, and rest and dt/tau of each cell, once for each lane."""

    weight: np.ndarray
    rest: np.ndarray
    rate: np.ndarray


def _movie_lanes(movie: np.ndarray) -> np.ndarray:
    """(S, T, C) as (Q, T, C, 4), the last block filled up with its last stimulus."""
    blocks = -(-len(movie) // LANES)
    index = np.minimum(np.arange(blocks * LANES), len(movie) - 1)
    return movie[index].reshape(blocks, LANES, *movie.shape[1:]).transpose(0, 2, 3, 1)


class TrainableModels(nn.Module):
    """Models whose shared parameters have gradients.

    Args:
        network: that they run on. models: initial values, M of them.

    Examples:
        >>> from sbi_circuits.connectome.fly import published_models, visual_system
        >>> network = RateNetwork.of(visual_system(1))
        >>> models = TrainableModels(network, published_models().take([0, 1]))
        >>> v = models(torch.full((3, 5, 7), 0.5), dt=0.02)
        >>> tuple(v.shape), v[..., 0].requires_grad
        ((2, 3, 5, 443), True)
    """

    def __init__(self, network: RateNetwork, models: Models):
        super().__init__()
        models.require(network.wiring)
        self.network, self._start = network, models
        self.strength, self.rest, self.tau = (
            nn.Parameter(torch.tensor(a)) for a in (models.strength, models.rest, models.tau)
        )

    def forward(self, movie: Tensor, dt: float, state: Tensor | None = None) -> Tensor:
        """Voltages (M, S, T, N) of all cells after each frame of a movie (S, T, C), or one movie a model, (M, S, T, C).

        Args:
            movie: intensities. dt: s. state: (M, 1 or S, N) before the first frame; rest where None.
        """
        cells, inputs = self._inputs(movie)
        stimuli, frames = movie.shape[-3:-1]
        weight = self.network.links.weights(self.strength)
        rate = dt / self.tau.clamp(min=dt)
        kind = torch.as_tensor(self.network.wiring.node_type, device=self.rest.device)
        v = self._start_lanes(state, stimuli)
        found = []
        for t in range(frames):
            v = euler_step(self.network.links, weight, self.rest, rate, kind, cells, inputs[:, :, t], v)
            found.append(v)
        return torch.stack([unlanes(one, stimuli) for one in found], dim=2)

    def settle(self, dt: float, seconds: float = 1.0) -> Tensor:
        """(M, 1, N) state after grey, without gradients."""
        grey = torch.full((1, 1, self.network.n_columns), GREY, device=self.rest.device)
        with torch.no_grad():
            state = None
            for _ in range(int(round(seconds / dt))):
                state = self(grey, dt, state)[:, :, -1]
        return self._start_state(1) if state is None else state

    def clamp(self) -> None:
        """Put strengths back to >= 0 and time constants to >= 0.1 ms, after a step of an optimiser."""
        with torch.no_grad():
            self.strength.clamp_(min=0.0)
            self.tau.clamp_(min=1e-4)

    def models(self, **provenance: object) -> Models:
        """Their present values."""
        strength, rest, tau = (a.detach().cpu().numpy().copy() for a in (self.strength, self.rest, self.tau))
        return Models(self._start.cell_types, self._start.groups, strength, rest, tau, provenance)

    def _per_cell(self, by_type: Tensor) -> Tensor:
        """(M, T) as (M, 1, N, 1)."""
        kind = torch.as_tensor(self.network.wiring.node_type, device=by_type.device)
        return by_type[:, kind][:, None, :, None]

    def _start_state(self, stimuli: int) -> Tensor:
        return self._per_cell(self.rest)[..., 0].expand(-1, stimuli, -1)

    def _start_lanes(self, state: Tensor | None, stimuli: int) -> Tensor:
        start = self._start_state(stimuli) if state is None else state.expand(-1, stimuli, -1)
        return lanes(start)

    def _inputs(self, movie: Tensor) -> tuple[Tensor, Tensor]:
        """Cells that see, and what each of them sees: (1 or M, Q, T, cells, 4)."""
        cells, columns = torch.as_tensor(self.network.seeing), torch.as_tensor(self.network.input_column)
        seen = (movie if movie.dim() == 4 else movie[None]).to(self.rest)
        models, stimuli, frames, width = seen.shape
        if width != self.network.n_columns:
            wanted = f"(stimuli, frames, {self.network.n_columns})"
            raise CircuitError(f"a movie must have shape {wanted}, got {tuple(movie.shape)}")
        blocks = lanes(seen[..., columns.to(seen.device)].reshape(models, stimuli, -1))
        return cells.to(seen.device), blocks.view(models, -1, frames, len(cells), LANES)


def batches(n: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover n."""
    yield from (slice(a, min(a + size, n)) for a in range(0, n, size))
