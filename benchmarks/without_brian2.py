"""Circuits and their translations where Brian2 is not installed: read from `gpu_circuits.json`, written where it is.

A GPU machine often has torch, numba and little else. What Brian2 does for an engine (unit factors, the abstract code
of equations) does not depend on parameters, sizes or seeds, so that it is kept in a file; tests/test_gpu_benchmark.py
compares the file with what Brian2 gives now.

    python -m benchmarks.without_brian2      write the file (needs Brian2)
"""

import json
import re
import sys
from dataclasses import asdict
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FILE = Path(__file__).with_name("gpu_circuits.json")
NAMES = ("adex_clustered", "brunel")
RATES = ("wilson_cowan", "jansen_rit")


def export() -> dict[str, Any]:
    """Units and translations of the benchmark's circuits, from Brian2."""
    from sbi_circuits import units
    from sbi_circuits.circuit import get_circuit
    from sbi_circuits.engines.kernel_cuda import columns_of
    from sbi_circuits.engines.rate_program import outputs_of

    used: set[str] = set()
    circuits: dict[str, Any] = {}
    for name in (*NAMES, *RATES):
        circuit = get_circuit(name)
        used |= set(re.findall(r"[A-Za-z]\w*", repr(circuit)))
        circuits[name] = {
            precision: [asdict(part) | {"held": sorted(part.held)} for part in columns_of(circuit, single).parts]
            for precision, single in (("single", True), ("double", False))
        }
        if name in RATES:
            circuits[name]["outputs"] = {
                precision: [[o.expression, o.invariants] for o in outputs_of(circuit, single)]
                for precision, single in (("single", True), ("double", False))
            }
    factors = {name: float(unit) for name, unit in units.brian2_units().items() if name in used or name == "1"}
    content: dict[str, Any] = json.loads(json.dumps({"units": dict(sorted(factors.items())), "circuits": circuits}))
    return content


def load() -> None:
    """Put what is in the file where Brian2's answers are asked for; circuits are not checked once more."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    _stand_in_for_errors()
    from sbi_circuits import circuit as circuits
    from sbi_circuits import units
    from sbi_circuits.engines import coupling, rate_program, translate

    units.brian2_units = lambda: content["units"]
    circuits.check_circuit = lambda circuit: None

    def found(circuit: Any, population: Any, reorder: bool) -> translate.Translation:
        parts = content["circuits"][circuit.name]["single" if reorder else "double"]
        part = next(p for p in parts if p["name"] == population.name)
        statements = {k: tuple(translate.Statement(**s) for s in part[k]) for k in ("update", "reset")}
        lists = {k: tuple(v) for k, v in part.items() if isinstance(v, list) and k not in statements}
        return translate.Translation(**{**part, **lists, **statements, "held": frozenset(part["held"])})

    def outputs(circuit: Any, reorder: bool) -> tuple[rate_program.Output, ...]:
        kept = content["circuits"][circuit.name].get("outputs", {}).get("single" if reorder else "double", [])
        return tuple(rate_program.Output(r, e, tuple(k)) for r, (e, k) in zip(circuit.readouts, kept, strict=True))

    translate.translate, coupling.couplings = found, lambda circuit, reorder: {}
    rate_program.translate, rate_program.couplings = found, coupling.couplings
    rate_program.outputs_of = cache(outputs)
    for name in ("priors", "simulators"):
        _package(f"sbi_circuits.{name}", ROOT / name / "__init__.py")
    for name in (*NAMES, *RATES):
        circuits.register(_package(f"sbi_circuits.simulators.{name}", ROOT / "simulators" / f"{name}.py").circuit())


def _stand_in_for_errors() -> None:
    """The one name of Brian2 that reading a unit asks for."""
    errors = ModuleType("brian2.units.fundamentalunits")
    errors.DimensionMismatchError = type("DimensionMismatchError", (Exception,), {})  # type: ignore[attr-defined]
    for name in ("brian2", "brian2.units"):
        sys.modules[name] = ModuleType(name)
    sys.modules[errors.__name__] = errors


def _package(name: str, path: Path) -> Any:
    """Import a file of the repository under the name it has where the package is installed."""
    folders = [str(path.parent)] if path.name == "__init__.py" else None
    spec = spec_from_file_location(name, path, submodule_search_locations=folders)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    FILE.write_text(json.dumps(export(), indent=1) + "\n", encoding="utf-8")
    print(f"wrote {FILE}")
