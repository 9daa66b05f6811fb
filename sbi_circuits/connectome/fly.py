"""The fly's visual system from its wiring diagram: 65 cell types on a lattice, 734 shared parameters.

Source: Lappalainen et al. 2024, "Connectome-constrained networks predict neural activity across the fly visual system",
Nature 634:1132, doi 10.1038/s41586-024-07939-3. The wiring (flyvis, MIT; reconstructions FIB-25 and FIB-19) and the 50
trained models ship with the package, with their licence, in `sbi_circuits/data/connectome`.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from sbi_circuits.connectome.lattice import Lattice, LatticePair, LatticeWiring, fill_hull
from sbi_circuits.connectome.models import Models, load_models
from sbi_circuits.connectome.wiring import Wiring
from sbi_circuits.errors import CircuitError

_DATA = files("sbi_circuits.data") / "connectome"
WIRING_FILE, ENSEMBLE_FILE = "fly_visual_system.json", "fly_visual_ensemble.safetensors"


@dataclass(frozen=True, eq=False)
class VisualSystem:
    """A visual system: cells on a lattice of columns, what sees, what is read out.

    Args:
        lattice: the columns.
        wiring: of all cells.
        input_types: photoreceptors; each cell of theirs adds the intensity in its column to its input.
        output_types: what a decoder of the task may read.

    Examples:
        >>> fly = visual_system(2)
        >>> fly.wiring.n_nodes, fly.wiring.n_edges, len(fly.wiring.cell_types), fly.n_parameters
        (1203, 28904, 65, 734)
    """

    lattice: Lattice
    wiring: Wiring
    input_types: tuple[str, ...]
    output_types: tuple[str, ...]

    @property
    def n_parameters(self) -> int:
        """Free parameters: resting potential and time constant of each type, strength of each pair of types."""
        return 2 * len(self.wiring.cell_types) + len(self.wiring.groups)


def read_lattice_wiring(path: str | Path) -> tuple[LatticeWiring, tuple[str, ...], tuple[str, ...]]:
    """The cell types of a JSON file in the format of flyvis, repeated on a lattice; input and output types.

    A pair of types that no lattice can connect, because its offsets miss the strides, is left out.

    Raises:
        CircuitError: a file that is missing or of another format; wrong wiring, naming the pair.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        nodes = content["nodes"]
        strides = tuple(_stride(node["pattern"]) for node in nodes)
        names = tuple(node["name"] for node in nodes)
        pairs = tuple(_pair(edge) for edge in content["edges"])
        ends = tuple(content["input_units"]), tuple(content["output_units"])
    except OSError as error:
        raise CircuitError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise CircuitError(f"{path} is not the wiring of a lattice: {error!r}") from error
    found = LatticeWiring(names, strides, pairs)
    reachable = tuple(pair for pair in pairs if _meets(pair, dict(zip(names, strides, strict=True))))
    for name in {*ends[0], *ends[1]} - set(names):
        raise CircuitError(f"{path}: unknown cell type {name!r} among input_units and output_units")
    return LatticeWiring(found.cell_types, found.strides, reachable), *ends


def _stride(pattern: Any) -> tuple[int, int]:
    kind, stride = pattern
    if kind != "stride":
        raise CircuitError(f"unknown pattern {kind!r} of a cell type; valid: stride")
    return int(stride[0]), int(stride[1])


def _pair(edge: dict[str, Any]) -> LatticePair:
    offsets = tuple((int(du), int(dv), float(count)) for (du, dv), count in edge["offsets"])
    return LatticePair(edge["src"], edge["tar"], int(edge["alpha"]), fill_hull(offsets))


def _meets(pair: LatticePair, strides: dict[str, tuple[int, int]]) -> bool:
    """Whether some offset leads from a column that has the source to one that has the target."""
    (su, sv), (tu, tv) = strides[pair.source], strides[pair.target]
    return any(_aligned(du, su, tu) and _aligned(dv, sv, tv) for du, dv, _ in pair.offsets)


def _aligned(offset: int, source: int, target: int) -> bool:
    return any((k * source + offset) % target == 0 for k in range(target))


@cache
def visual_system(extent: int = 15) -> VisualSystem:
    """The fly's visual system within `extent` columns of the centre: 45,669 cells and 1,513,231 edges at 15.

    Raises:
        CircuitError: a negative extent.
    """
    with as_file(_DATA / WIRING_FILE) as path:
        wiring, inputs, outputs = read_lattice_wiring(path)
    return VisualSystem(Lattice(extent), wiring.at(extent), inputs, outputs)


@cache
def published_models() -> Models:
    """The 50 trained models of Lappalainen et al. 2024, in the order of their task error, best first.

    Examples:
        >>> models = published_models()
        >>> models.n_models, models.strength.shape
        (50, (50, 604))
    """
    with as_file(_DATA / ENSEMBLE_FILE) as path:
        return load_models(path)
