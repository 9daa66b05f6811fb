"""Reading a posterior that was saved; no code in the files is run, as there is none."""

from pathlib import Path
from typing import Any

from sbi_circuits.inference.artefact import Tensors, arrays, part
from sbi_circuits.inference.config import FlowSpec
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.inference.flows import build_flows, torch_device
from sbi_circuits.inference.posterior import Posterior
from sbi_circuits.inference.save import FORMAT
from sbi_circuits.inference.shipped import posterior_folder
from sbi_circuits.inference.support import Support
from sbi_circuits.prior import Prior


def load_posterior(name_or_folder: str | Path, device: str = "cpu") -> Posterior:
    """Read a posterior that `Posterior.save` wrote; its draws equal those before, seed by seed.

    Args:
        name_or_folder: where it was saved; or, where there is no such folder, the name of a posterior that comes with
            the package ("adex_clustered"; `load_card` says how far to trust it).
        device: "cpu", "cuda", or "auto".

    Raises:
        InferenceError: missing or damaged files, or another schema version.
        UnknownNameError: a name that is neither a folder nor shipped.

    Examples:
        >>> posterior = load_posterior("adex_clustered")
        >>> posterior({"bursts.interval_mean": 10.0, "bursts.width_mean": 0.07}).sample(100, seed=0).shape
        (100, 28)
    """
    return FORMAT.read(posterior_folder(name_or_folder), _rebuild).to(torch_device(device))


def _rebuild(manifest: dict[str, Any], tensors: Tensors) -> Posterior:
    flows = build_flows(FlowSpec.from_dict(manifest["flows"]), seed=0)
    flows.load_state_dict(part(tensors, "flows"))
    return Posterior(
        prior=Prior.from_toml(manifest["prior"]),
        feature_names=tuple(manifest["feature_names"]),
        feature_units=tuple(manifest["feature_units"]),
        encoder=FeatureEncoder.from_arrays(arrays(tensors, "encoder")),
        flows=flows,
        weights=tensors["weights"].numpy(),
        support=Support(**arrays(tensors, "support")),
        provenance=manifest["provenance"],
        log=tuple(manifest["log"]),
    )
