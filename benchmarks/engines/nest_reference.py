"""Simulate Brunel's network at full size with NEST and keep rate and CV, for tests that cannot wait for NEST.

    python -m benchmarks.engines.nest_reference --seeds 4

Fills tests/golden/nest_brunel.json run by run: what is there already is kept. A run takes ten seconds to two minutes.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines.nest_client import REGIMES, Activity, brunel_task, run_nest
from sbi_circuits.circuit import get_circuit

FILE = Path(__file__).resolve().parents[2] / "tests" / "golden" / "nest_brunel.json"
J, DELAY = 0.1, 1.5  # mV, ms


def theta(regime: str) -> np.ndarray:
    """Configuration of a regime: g, eta, J (mV), delay (ms)."""
    return np.array([*REGIMES[regime][:2], J, DELAY])


def times(regime: str) -> tuple[float, float]:
    """Valid interval and warm-up (s): longer where cells fire at 5 Hz, shorter where they fire at 333 Hz."""
    return {"slow oscillation": (2.0, 0.1), "synchronous regular": (0.15, 0.05)}.get(regime, (0.5, 0.1))


def read() -> dict[str, Any]:
    """What is kept: `version`, `runs` (regime -> seed -> rate and cv)."""
    found: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {"version": "", "runs": {}}
    return found


def activities(regime: str) -> list[Activity]:
    """The kept runs of a regime."""
    return [Activity(**run) for run in read()["runs"][regime].values()]


def simulate(regime: str, seed: int) -> dict[str, Any]:
    """One run of NEST at full size."""
    return run_nest(brunel_task(get_circuit("brunel"), theta(regime), *times(regime), seed, "static_synapse_hom_w"))


def keep(regime: str, seed: int, found: dict[str, Any]) -> None:
    """Add a run to the file."""
    content = read()
    content["version"] = found["version"]
    content["runs"].setdefault(regime, {})[str(seed)] = {"rate": found["rate"], "cv": found["cv"]}
    temporary = FILE.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, FILE)


def main() -> None:
    parser = argparse.ArgumentParser(description="Keep NEST's activity in the four regimes of Brunel 2000.")
    parser.add_argument("--seeds", type=int, default=4)
    for seed in range(1, parser.parse_args().seeds + 1):
        for regime in REGIMES:
            if str(seed) not in read()["runs"].get(regime, {}):
                found = simulate(regime, seed)
                keep(regime, seed, found)
                print(f"{regime}, seed {seed}: {found['rate']:.3f} Hz, CV {found['cv']:.4f}", flush=True)


if __name__ == "__main__":
    main()
