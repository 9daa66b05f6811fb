"""The aimed campaign of the shipped posteriors, from where it stopped: `python -m benchmarks.aimed FOLDER`."""

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks.aimed.cultures import measured
from benchmarks.aimed.rounds import run
from benchmarks.aimed.settings import Settings
from sbi_circuits.cultures import plate
from sbi_circuits.demo import demo_table


def main(folder: Path, rounds: int, workers: int) -> None:
    run(folder, demo_table(), (plate(), measured()), replace(Settings(), rounds=rounds), workers)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=Settings().rounds)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    main(arguments.folder, arguments.rounds, arguments.workers)
