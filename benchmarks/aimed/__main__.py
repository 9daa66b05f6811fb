"""The aimed campaign and the shipped posteriors, from nothing or from where they stopped.

    python -m benchmarks.aimed FOLDER                              go on with the rounds, until stopped
    python -m benchmarks.aimed FOLDER --rounds 6 --posteriors      six rounds in all, then tables and posteriors
    python -m benchmarks.aimed FOLDER --from-nothing ...           make the table the first round aims with, too

FOLDER keeps everything: stopped at any moment, the same line goes on. A simulation of 120 s takes about two processor
seconds. `--posteriors` writes into the package.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks import demo_table
from benchmarks.aimed import posterior, tables
from benchmarks.aimed.cultures import measured
from benchmarks.aimed.rounds import run
from benchmarks.aimed.settings import TABLES, Settings
from sbi_circuits.cultures import plate
from sbi_circuits.inference.shipped import FOLDER
from sbi_circuits.table import Table


def main(folder: Path, settings: Settings, workers: int, nothing: bool, posteriors: bool, out: Path = FOLDER) -> None:
    if nothing:
        demo_table.main(folder / "start", workers)
    run(folder, tables.start_table(folder), (plate(), measured()), settings, workers)
    if posteriors:
        tables.main(folder, list(TABLES))
        for name in TABLES:
            table = Table.load_file(folder / f"{name}.parquet")
            print(posterior.make(table, name, out, made_by="python -m benchmarks.aimed FOLDER --posteriors").summary())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=Settings().rounds, help="in all, those that are there included")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--from-nothing", action="store_true")
    parser.add_argument("--posteriors", action="store_true")
    parser.add_argument("--accept-code", action="store_true", help="go on with rounds that other code began")
    given = parser.parse_args()
    chosen = replace(Settings(), rounds=given.rounds, accept_code=given.accept_code)
    main(given.folder, chosen, given.workers, given.from_nothing, given.posteriors)
