"""The coordinates and scales with which the Gaussian regression that flows start from predicts held-out rows better."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from sbi_circuits.inference import mixtures
from sbi_circuits.inference.config import FlowSpec, TrainingConfig
from sbi_circuits.inference.coordinates import bound, prior_log_prob, to_z
from sbi_circuits.inference.data import TrainingData
from sbi_circuits.inference.encode import SCALINGS, FeatureEncoder
from sbi_circuits.inference.gaussian import GaussianStart
from sbi_circuits.inference.long import LongFamily, long_families
from sbi_circuits.inference.members import Place, frame, place
from sbi_circuits.inference.optimise import Rows
from sbi_circuits.inference.stored import StoredFeatures

_LOG_WIDTHS = (0.0, 0.4, 0.9, 3.4)
# "normal" must be better than the default by so many standard errors, and by so many nats a parameter: what mixtures
# learn beyond the regression is more in "uniform" ones (slcp: the regression lost .13 nats there, the members won .3).
_ERRORS, _MARGIN = 2.0, 0.03
_CHUNK = 1024
_ENOUGH = 20_000  # rows that tell which scales are better


def fitted_start(spec: FlowSpec, training: Rows, validation: Rows) -> GaussianStart:
    """The Gaussian regression that all members begin with."""
    start = GaussianStart(spec.parameters, len(spec.missing), spec.missing, spec.long).to(training.z.device)
    rows = [(r.z, r.features.inputs(), r.weights) for r in (training, validation)]
    start.fit(*rows[0], *rows[1])
    return start


def better_coordinates(spec: FlowSpec, training: Mapping[str, Rows], validation: Mapping[str, Rows]) -> str:
    """ "uniform", unless the regression in "normal" coordinates gains clearly more over the prior.

    Args:
        spec: of the members, in any coordinates.
        training, validation: the same rows in each of the coordinates.
    """
    starts = {name: fitted_start(spec, training[name], validation[name]) for name in ("uniform", "normal")}
    gains = {name: _gains(start, validation[name], name) for name, start in starts.items()}
    lead = (gains["normal"] - gains["uniform"]) * validation["uniform"].weights.cpu()
    return "normal" if _clear(lead, spec.parameters) else "uniform"


def _clear(lead: Tensor, parameters: int) -> bool:
    """Whether a lead (n,) in nats is more than chance, and worth it."""
    return float(lead.mean()) > max(_ERRORS * float(lead.std()) / len(lead) ** 0.5, _MARGIN * parameters)


def better_scaling(data: TrainingData, config: TrainingConfig, training: np.ndarray, validation: np.ndarray) -> str:
    """ "robust", unless the regression on ranks gains clearly more over the prior.

    Args:
        config: resolved.
        training, validation: which rows of the data; of many some are looked at.
    """
    training, validation = (part[:: -(-len(part) // _ENOUGH)] for part in (training, validation))
    index, cut = np.concatenate([training, validation]), len(training)
    where = "normal" if config.coordinates == "normal" else "uniform"
    gains = {name: _scaled_gains(data, config, index, cut, name, where) for name in SCALINGS}
    return "rank" if _clear(gains["rank"] - gains["robust"], len(data.prior)) else "robust"


def _scaled_gains(
    data: TrainingData, config: TrainingConfig, index: np.ndarray, cut: int, scaling: str, where: str
) -> Tensor:
    """Gains (n,) of the rows after the first `cut`, by which scales and regression are found."""
    values, states = data.values[index], data.states[index]
    encoder = FeatureEncoder.fit(values, states, config.drop > 0, np.arange(cut), scaling)
    stored, z = StoredFeatures.of(encoder, values, states), torch.as_tensor(to_z(data.prior, data.theta[index], where))
    spec = FlowSpec.of(
        config, len(data.prior), encoder.inputs, encoder.missing, embedded(config, data.feature_names, encoder)
    )
    groups, ones = torch.zeros(values.shape[1], dtype=torch.long), torch.ones(len(index))
    parts = [np.arange(cut), np.arange(cut, len(index))]
    first, second = (Rows(z[part].float(), stored.only(part), groups, ones[part]) for part in parts)
    return _gains(fitted_start(spec, first, second), second, where)


def embedded(config: TrainingConfig, names: tuple[str, ...], encoder: FeatureEncoder) -> tuple[LongFamily, ...]:
    """The families that are read as a few numbers."""
    wanted = config.embedding == "long" or (config.embedding == "auto" and config.family == "batched")
    return long_families(names, encoder) if wanted else ()


@torch.no_grad()
def _gains(start: GaussianStart, rows: Rows, name: str) -> Tensor:
    """Log density over the prior's, (n,), of the regression cut off at the prior's bounds.

    What is not informed by the features is flat between bounds, not normal: for each parameter the best of several
    widths counts.
    """
    parts = [slice(k, k + _CHUNK) for k in range(0, len(rows.z), _CHUNK)]
    options = torch.cat([_options(start, rows.z[p], rows.features[p].inputs(), name) for p in parts], dim=1)
    best = options.mean(1).argmax(0)
    z = rows.z.double().cpu()
    found = options[best, :, torch.arange(len(best))].T
    return found.sum(-1) - torch.as_tensor(prior_log_prob(z.numpy(), name))


def _options(start: GaussianStart, z: Tensor, inputs: Tensor, name: str) -> Tensor:
    """Log density (widths, n, P) of each parameter given those before."""
    seen, pattern = torch.unique(start.seen(inputs), dim=0, return_inverse=True)
    order = torch.arange(z.shape[1], device=z.device)[None]
    where = place(start, z[None], inputs[None], frame(start, seen, order), pattern[None])
    widths = _LOG_WIDTHS if name == "uniform" else _LOG_WIDTHS[:1]
    return torch.stack([_log_density(where, width, name) for width in widths]).double().cpu()


def _log_density(where: Place, log_width: float, name: str) -> Tensor:
    """Log density (n, P) of each parameter given those before, the regression's sd times exp(log_width)."""
    low, high = ((edge - where.mean) / where.sd for edge in (-bound(name), bound(name)))
    zero = torch.zeros_like(where.u)
    reach = mixtures.BEYOND * math.exp(log_width)
    mean = torch.minimum(torch.maximum(zero, low - reach), high + reach)
    single = mixtures.Mixture(zero[..., None], mean[..., None], zero[..., None] + log_width)
    return (mixtures.log_density(single, where.u, low, high, name == "uniform") - where.sd.log())[0]
