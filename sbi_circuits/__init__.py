"""Simulation-based inference for mechanistic circuits.

Public names load on first use, so that importing the package stays quick; `dir(sbi_circuits)` lists them.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "calibration": ("HeldOut", "ReachTest", "calibrate", "recalibrate"),
    "campaign": ("Campaign", "TableProposal", "run_campaign"),
    "circuit": (
        "AllToAll", "Circuit", "CurrentSteps", "EarlyStop", "EdgeList", "Explicit", "FieldProxy", "FixedIndegree",
        "FixedTotal", "Independent", "OneToOne", "PoissonInput", "Population", "Projection", "Readout", "Record",
        "Stimulus", "get_circuit", "list_circuits", "register", "with_lfp",
    ),
    "comparison": ("compare_circuits",),
    "engines": ("Protocol", "get_engine"),
    "ensemble": ("Ensemble", "build_ensemble", "observe", "verify"),
    "estimators": ("combine", "train_estimator"),
    "features": ("FeatureSet", "FeatureValues", "WindowedFeatures"),
    "gradients": ("refine",),
    "inference": ("Posterior", "TrainingConfig", "load_card", "load_posterior", "shipped_posteriors", "train"),
    "prior": ("Parameter", "Prior"),
    "readers": ("list_groups", "read_recording", "write_recording"),
    "recording": ("Outcome", "Recording"),
    "results": ("load_ensemble", "save_ensemble", "to_inference_data"),
    "simulation": ("simulate",),
    "table": ("Table", "concat"),
    "verification": ("Criterion",),
}  # fmt: skip
_EXPORTS = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value = import_module("importlib.metadata").version("sbi-circuits")
    elif name in _EXPORTS:
        value = getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    else:
        public = ", ".join(sorted(_EXPORTS))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names: {public}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS, "__version__"})
