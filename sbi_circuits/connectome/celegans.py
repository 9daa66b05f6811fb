"""C. elegans as a circuit of graded potentials, from the whole-animal connectome of the hermaphrodite.

Wiring: Cook et al. 2019, Nature 571:63, as in cect 0.3.5 (MIT): synapses between 473 cells, neurons, muscles and
others, and gap junctions. Dynamics: Wicks, Roehrig, Rankin 1996, J Neurosci 16:4017; constants and thresholds of
Kunert, Shlizerman, Kutz 2014, Phys Rev E 89:052805:

    C dV_i/dt = -g_leak (V_i - E_leak) - sum_j g_gap n_ij (V_i - V_j) - sum_j g_syn N_ij s_j (V_i - E_j) + I_i
    ds_j/dt   = a_r phi_j (1 - s_j) - a_d s_j,    phi_j = 1 / (1 + exp(-beta (V_j - V_th,j)))

V_th is where every phi is 1/2 without input. Neurons that make GABA inhibit (McIntire et al. 1993, Nature 364:337).
"""

import re
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch

from sbi_circuits.connectome.sparse import Links, lanes, product, unlanes
from sbi_circuits.connectome.tables import from_matrix
from sbi_circuits.connectome.wiring import Wiring
from sbi_circuits.errors import CircuitError, UnknownNameError

GABA = ("AVL", "DVB", "RIS", "RMED", "RMEL", "RMER", "RMEV", *(f"DD{k}" for k in range(1, 7)),
        *(f"VD{k}" for k in range(1, 14)))  # fmt: skip
_MUSCLE = re.compile(r"(M[DV][LR]\d+|pm\d.*|[uv]m\d.*|mu_.*)$")
_OTHER = re.compile(r"(e\d.*|g\d.*|bm|hmc|hyp|int|mc\d.*|exc_.*|CEPsh.*|GLR.*)$")
_FILE = "celegans_cook2019.npz"


def read_celegans(path: str | Path) -> Wiring:
    """Wiring from a file with arrays `nodes` (n,), `chemical` (n, n), row = presynaptic, and `gap` (n, n).

    Types are neuron, muscle and other.

    Raises:
        CircuitError: a file that is missing or of another format; a negative count or an asymmetric gap matrix,
            naming row and column.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names, chemical, gap = (file[name] for name in ("nodes", "chemical", "gap"))
    except OSError as error:
        raise CircuitError(f"cannot read {path}: {error.strerror or error}") from error
    except (KeyError, ValueError) as error:
        raise CircuitError(f"{path} holds no connectome: {error}") from error
    signs = np.where(np.isin(names, GABA), -1, 1)
    return from_matrix(chemical, names, [_kind(name) for name in names.tolist()], gap, signs)


def _kind(name: str) -> str:
    return "muscle" if _MUSCLE.match(name) else "other" if _OTHER.match(name) else "neuron"


def celegans() -> Wiring:
    """The connectome of the hermaphrodite.

    Examples:
        >>> wiring = celegans()
        >>> wiring.n_nodes, wiring.n_edges, int(wiring.count.sum()), len(wiring.gap)
        (473, 4879, 28113, 1450)
        >>> len(wiring.cells("neuron"))
        302
    """
    with as_file(files("sbi_circuits.data") / "connectome" / _FILE) as path:
        return read_celegans(path)


@dataclass(frozen=True)
class GradedConstants:
    """Constants of the dynamics; conductances pS, potentials mV, capacitance pF, rates 1/s, beta 1/mV."""

    g_leak: float = 10.0
    e_leak: float = -35.0
    capacitance: float = 1.0
    g_syn: float = 100.0
    g_gap: float = 100.0
    e_excitatory: float = 0.0
    e_inhibitory: float = -45.0
    a_r: float = 1.0
    a_d: float = 5.0
    beta: float = 0.125


@dataclass(frozen=True, eq=False)
class GradedResponses:
    """Voltages (S, T, R), mV, of the recorded cells, and when, s: (T,)."""

    time: np.ndarray
    voltage: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class GradedCircuit:
    """Cells with graded potentials on a wiring with synapses and gap junctions.

    Args:
        wiring: such as `celegans()`, or a part of it.
        constants: of all cells alike.

    Examples:
        >>> circuit = GradedCircuit(celegans())
        >>> quiet = circuit.run({}, duration=0.05, record=("AVAL", "PLML"))
        >>> bool(abs(quiet.voltage - circuit.threshold[[126, 209]]).max() < 1e-3)  # rests where phi is 1/2
        True
    """

    wiring: Wiring
    constants: GradedConstants = GradedConstants()

    @cached_property
    def _reversal(self) -> np.ndarray:
        """(E,) reversal potential of each edge, mV."""
        c = self.constants
        return np.where(self.wiring.sign > 0, c.e_excitatory, c.e_inhibitory)

    @property
    def resting_activation(self) -> float:
        """Synaptic activation where phi is 1/2."""
        return self.constants.a_r / (self.constants.a_r + 2 * self.constants.a_d)

    @cached_property
    def threshold(self) -> np.ndarray:
        """(n,) V_th, mV: the voltages at rest, from the linear system of all currents with every phi = 1/2."""
        c, w, n = self.constants, self.wiring, self.wiring.n_nodes
        g = c.g_syn * w.count * self.resting_activation
        gap = c.g_gap * w.gap_matrix()
        gap[np.diag_indices(n)] = 0.0  # a junction with itself carries no current
        total = c.g_leak + np.bincount(w.target, g, n) + gap.sum(1)
        right = c.g_leak * c.e_leak + np.bincount(w.target, g * self._reversal, n)
        return np.linalg.solve(np.diag(total) - gap, right)

    @cached_property
    def _chemical(self) -> tuple[Links, torch.Tensor]:
        """Links, and weights of two "models": conductance, and conductance times reversal potential."""
        links = Links(self.wiring)
        scale = links.class_scale.double()
        c = self.constants
        reversal = torch.where(scale > 0, c.e_excitatory, c.e_inhibitory)
        return links, c.g_syn * torch.stack([scale.abs(), scale.abs() * reversal])

    @cached_property
    def _gap(self) -> tuple[Links, torch.Tensor, np.ndarray]:
        a, b = self.wiring.gap[self.wiring.gap[:, 0] != self.wiring.gap[:, 1]].T
        count = self.wiring.gap_count[self.wiring.gap[:, 0] != self.wiring.gap[:, 1]]
        ends = np.concatenate([a, b]), np.concatenate([b, a]), np.tile(count, 2)
        both = Wiring(("cell",), np.zeros(self.wiring.n_nodes, dtype=int), *ends, np.ones(len(ends[0])),
                      where="gap junction")  # fmt: skip
        links = Links(both)
        total = self.constants.g_gap * np.bincount(ends[1], ends[2], self.wiring.n_nodes)
        return links, self.constants.g_gap * links.class_scale.double()[None], total

    def run(
        self,
        currents: dict[str, float] | list[dict[str, float]],
        duration: float,
        dt: float = 1e-3,
        onset: float = 0.0,
        record: tuple[str, ...] | None = None,
    ) -> GradedResponses:
        """Voltages after a step of current, from rest; exponential Euler, one pass for all stimuli.

        Args:
            currents: pA by name of cell; a list for several stimuli at once.
            duration: s. dt: s. onset: of the step, s.
            record: names of cells; all where None.

        Raises:
            UnknownNameError: a cell that does not exist.
            CircuitError: a duration or dt that is not positive.
        """
        if not (dt > 0 and duration >= dt):
            raise CircuitError(f"dt must be > 0 s and duration at least as long, got {dt} and {duration}")
        steps = [currents] if isinstance(currents, dict) else currents
        injected = np.zeros((1, len(steps), self.wiring.n_nodes))
        for k, step in enumerate(steps):
            for name, value in step.items():
                injected[0, k, self._place(name)] = value * 1e3  # pA to pS mV
        names = tuple(self.wiring.names.tolist()) if record is None else record
        recorded = torch.as_tensor([self._place(name) for name in names])
        frames = int(round(duration / dt))
        found = self._integrate(lanes(torch.as_tensor(injected)), frames, dt, onset, recorded)
        voltage = torch.stack([unlanes(v, len(steps))[0] for v in found], dim=1).numpy()
        return GradedResponses(dt * np.arange(1, frames + 1), voltage, names)

    def _place(self, name: str) -> int:
        found = np.flatnonzero(self.wiring.names == name)
        if not len(found):
            raise UnknownNameError("cell", name, self.wiring.names.tolist())
        return int(found[0])

    def _integrate(
        self, injected: torch.Tensor, frames: int, dt: float, onset: float, recorded: torch.Tensor
    ) -> list[torch.Tensor]:
        c = self.constants
        (links, weight), (gap, gap_weight, gap_total) = self._chemical, self._gap
        threshold, gap_sum = (torch.as_tensor(a)[None, None, :, None] for a in (self.threshold, gap_total))
        v = threshold.expand_as(injected).clone()
        s = torch.full_like(v, self.resting_activation)
        found = []
        for t in range(frames):
            conductance, driven = product(links, weight, s.expand(2, -1, -1, -1)).split(1)
            total = c.g_leak + conductance + gap_sum
            current = c.g_leak * c.e_leak + driven + product(gap, gap_weight, v)
            if t * dt >= onset:
                current = current + injected
            phi = torch.sigmoid(c.beta * (v - threshold))
            # pS / pF = 1/s; each variable relaxes to where it would settle, were the others constant.
            v = v + (current / total - v) * -torch.expm1(-dt * total / c.capacitance)
            rate = c.a_r * phi + c.a_d
            s = s + (c.a_r * phi / rate - s) * -torch.expm1(-dt * rate)
            found.append(v[:, :, recorded])
        return found
