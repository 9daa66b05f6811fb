"""A decoder on the lattice: from the rates of the output cells to the flow of every column.

Rectified voltages of the output types, against those on grey, then two hexagonal convolutions, the second with one
channel more, which normalises the others (after Lappalainen et al. 2024, Methods). One decoder a model, all in the same
tensors.
"""

import numpy as np
import torch
from torch import Tensor, nn

from sbi_circuits.connectome.fly import VisualSystem
from sbi_circuits.connectome.lattice import Lattice
from sbi_circuits.seeds import generator

_FAINT = 1e-4  # a change of voltage that is taken for none


class HexConvolution(nn.Module):
    """Convolution over the columns within `radius` of each, for M models at once.

    Columns lie in a square map by u and v, in which a hexagon is a square without two corners.

    Args:
        lattice: of the columns; what lies outside counts as 0.
        models, inputs, outputs: M, and channels.
        radius: of the kernel, columns. seed: of the initial weights.

    Examples:
        >>> layer = HexConvolution(Lattice(3), models=2, inputs=4, outputs=3, radius=1, seed=0)
        >>> tuple(layer(torch.ones(2, 5, 4, 37)).shape)
        (2, 5, 3, 37)
    """

    place: Tensor
    inside: Tensor

    def __init__(self, lattice: Lattice, models: int, inputs: int, outputs: int, radius: int, seed: int):
        super().__init__()
        self.side, self.radius = 2 * lattice.extent + 1, radius
        u, v = lattice.columns.T + lattice.extent
        kernel = Lattice(radius)
        inside = np.zeros((2 * radius + 1,) * 2)
        inside[tuple(kernel.columns.T + radius)] = 1.0
        self.register_buffer("place", torch.as_tensor(u * self.side + v), persistent=False)
        self.register_buffer("inside", torch.tensor(inside, dtype=torch.float32), persistent=False)
        scale, shape = 1.0 / np.sqrt(inputs * kernel.n_columns), (outputs, inputs, *inside.shape)
        start = [generator(seed, m, "decoder").uniform(-scale, scale, shape) for m in range(models)]
        self.weight = nn.Parameter(torch.tensor(np.stack(start), dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(models, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(M, B, inputs, C) to (M, B, outputs, C)."""
        models, batch, inputs, _ = x.shape
        side = self.side
        square = x.new_zeros(models, batch, inputs, side * side).index_copy(3, self.place, x)
        square = square.transpose(0, 1).reshape(batch, models * inputs, side, side)
        weight = (self.weight * self.inside).flatten(0, 1)
        y = nn.functional.conv2d(square, weight, self.bias.flatten(), padding=self.radius, groups=models)
        return y.view(batch, models, -1, side * side).transpose(0, 1)[..., self.place]


class FlowDecoder(nn.Module):
    """From voltages to flow (M, S, T, 2, C), columns/s.

    Args:
        system: whose output types are read; types that are not in every column are left out.
        models: M. hidden: channels between the convolutions. radius: of their kernels. scale: of the flow, columns/s.
        seed: of the initial weights.
    """

    cells: Tensor

    def __init__(
        self, system: VisualSystem, models: int, hidden: int = 8, radius: int = 2, scale: float = 5.0, seed: int = 0
    ):
        super().__init__()
        columns = system.lattice.n_columns
        read = [system.wiring.cells(name) for name in system.output_types]
        cells = np.stack([own for own in read if len(own) == columns])
        self.register_buffer("cells", torch.as_tensor(cells), persistent=False)
        self.first = HexConvolution(system.lattice, models, len(cells), hidden, radius, seed)
        self.second = HexConvolution(system.lattice, models, hidden, 3, radius, seed + 1)
        self.scale = scale

    def forward(self, v: Tensor, grey: Tensor) -> Tensor:
        """Flow from voltages (M, S, T, N), and those on grey, (M, 1, N)."""
        models, stimuli, frames, _ = v.shape
        change = v[..., self.cells].relu() - grey[:, :, None, self.cells].relu()
        # One scale for each movie: rates of trained and untrained networks differ a thousandfold.
        size = change.square().mean((2, 3, 4), keepdim=True).sqrt().detach()
        seen = (change / (size + _FAINT)).flatten(1, 2)  # (M, S T, types, C)
        found = self.second(nn.functional.softplus(self.first(seen)))
        flow = self.scale * found[:, :, :2] / (1.0 + nn.functional.softplus(found[:, :, 2:]))
        return flow.view(models, stimuli, frames, 2, -1)
