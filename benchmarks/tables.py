"""Measure tables at scale: memory and time from a large table to a posterior, and many small parts.

    python -m benchmarks.tables                        both parts
    python -m benchmarks.tables --only training        one of them
    python -m benchmarks.tables --rows 100000          another size
    python -m benchmarks.tables --write                also into benchmarks/RESULTS.md

The table is synthetic: features are random linear functions of the parameters, with noise. It is written below
`--folder` (about 4 GB at the default size) and removed at the end. Peak memory is the resident set of a process of its
own, libraries included, as Linux counts it (VmHWM), reset before each phase.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from sbi_circuits.circuit import get_circuit
from sbi_circuits.features import FeatureSet
from sbi_circuits.table import Manifest, Rows, Table
from sbi_circuits.table_compact import compact_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("RESULTS.md")
TITLE = "## Tables at scale"
PART, UNIT = 8192, 16  # simulations a part of the large table, and of the one of many small parts
NOISE = 2.0


def wide(features: int) -> FeatureSet:
    """A spectrum of so many bins, at most 1,000."""
    return FeatureSet.of(spectrum={"low": 0.5, "high": 0.5 * features, "step": 0.5})


def synthetic(of: Manifest, start: int, stop: int) -> Rows:
    """Simulations start..stop: features that are linear in the parameters, with noise."""
    n, width = stop - start, len(of.feature_names)
    random = np.random.default_rng([1, start])
    theta = of.prior.sample(n, seed=0, start=start)
    mixing = np.random.default_rng(0).normal(size=(len(of.prior), width))
    values = of.prior.to_unit(theta) @ mixing + NOISE * random.standard_normal((n, width), dtype=np.float32)
    return Rows(
        np.arange(start, stop), np.full(n, of.seed), theta, values, np.zeros((n, width), dtype=np.uint8),
        np.full(n, "ok"), np.full(n, ""), np.full(n, 0.1), np.full(n, "prior"), np.ones(n),
    )  # fmt: skip


def write_table(path: Path, rows: int, feature_set: FeatureSet, part: int) -> Table:
    """A table of so many simulations in parts of one size."""
    of = Manifest.of(get_circuit("adex_clustered"), feature_set, {"duration": 10.0}, "synthetic", 0)
    table = Table.create(path, of)
    for start in range(0, rows, part):
        stop = min(start + part, rows)
        table.append(start, stop, synthetic(of, start, stop), of)
    return table


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def memory(name: str) -> int:
    """A line of /proc/self/status, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def measured(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What work returns, with its seconds and the peak of the resident set, bytes."""
    reset_peak()
    began = perf_counter()
    found = work()
    return found, {"s": perf_counter() - began, "peak": memory("VmHWM")}


def child(path: Path, config: dict[str, Any]) -> None:
    """Phases of training in this process; JSON on standard output."""
    import torch

    from sbi_circuits.inference import TrainingConfig, TrainingData, train

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    figures: dict[str, Any] = {"libraries": memory("VmRSS")}
    table, figures["open"] = measured(lambda: Table.open(path))
    names, read = table.manifest.feature_names[:100], TrainingData.from_table
    chosen, figures["100 features"] = measured(lambda: read(table, names))
    del chosen

    def timed(*arguments: Any) -> TrainingData:
        data, figures["load"] = measured(lambda: read(*arguments))
        figures["held"] = data.values.nbytes + data.states.bits.nbytes + data.theta.nbytes  # type: ignore[union-attr]
        return data

    TrainingData.from_table = timed  # type: ignore[method-assign, assignment]
    began = perf_counter()
    posterior = train(table, TrainingConfig(**config), progress=False)
    figures["train"] = {"s": perf_counter() - began, "peak": max(memory("VmHWM"), figures["load"]["peak"])}
    figures["log"] = [*posterior.log[:2], *posterior.log[-4:]]
    print(json.dumps(figures))


def training(folder: Path, rows: int, features: int, given: Path | None) -> list[str]:
    """Peak memory and time from a table of `rows` x `features`, or one that is there, to a posterior."""
    path = given or folder / "large"
    table = Table.open(path) if given else write_table(path, rows, wide(features), PART)
    rows, width, parameters = len(table), len(table.manifest.feature_names), len(table.prior)
    config = {"members": 1, "hidden": 64, "batch": 1024, "epochs": 2, "validation": 0.02}
    command = [sys.executable, "-m", "benchmarks.tables", "--child", str(path), json.dumps(config)]
    found = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    used = 4 * rows * (width + parameters)
    size = sum(part.path.stat().st_size for part in table.parts())
    lines = [
        f"{rows:,} simulations of {width:,} features and {parameters} parameters in {len(table.parts())} parts, "
        f"{size / 1e9:.2f} GB on disk. Data used: the features and parameters in single "
        f"precision, {used / 1e9:.3f} GB; a process with the libraries loaded takes {found['libraries'] / 1e9:.2f} GB.",
        "",
        "| phase | s | peak resident set, GB | over data used |",
        "| --- | --- | --- | --- |",
    ]
    names = {
        "open": "open the table", "100 features": "read 100 of the features, and the digest of all",
        "load": "read all, and the digest", "train": f"train, reading included, {config['epochs']} epochs",
    }  # fmt: skip
    for key, name in names.items():
        phase = found[key]
        lines.append(f"| {name} | {phase['s']:.2f} | {phase['peak'] / 1e9:.2f} | {phase['peak'] / used:.2f} |")
    setting = ", ".join(f"{name} {value}" for name, value in config.items())
    held = f"What is held after reading (values, packed states, parameters): {found['held'] / 1e9:.2f} GB."
    return [*lines, "", f"Target: less than 1.5. {held} Training: {setting}, features dropped at random in half of",
            f"the rows (the default); its log: {'; '.join(found['log'])}."]  # fmt: skip


def parts(folder: Path, rows: int) -> list[str]:
    """Many small parts: what is missing, reading, and compaction."""
    path = folder / "small"
    began = perf_counter()
    table = write_table(path, rows, FeatureSet.of("isi", "bursts"), UNIT)
    wrote = perf_counter() - began
    number, timed = len(table.parts()), {}
    again = Table.open(path)
    _, timed["what is missing (resuming)"] = measured(lambda: again.missing(rows + 1))
    (path / "checked.txt").unlink()
    _, timed["the same where every footer has to be read (a table that was copied)"] = measured(
        lambda: again.missing(rows + 1)
    )
    before, timed["read theta and outcomes"] = measured(lambda: again.read(("theta", "outcome")))
    _, timed["compaction"] = measured(lambda: compact_table(again))
    after = len(again.parts())
    same, timed["read theta and outcomes after it"] = measured(lambda: again.read(("theta", "outcome")))
    _, timed["what is missing after it"] = measured(lambda: again.missing(rows + 1))
    assert np.array_equal(before.theta, same.theta)
    _, timed["digest after it"] = measured(lambda: again.digest)
    shutil.rmtree(path)
    lines = [
        f"{rows:,} simulations of {len(table.manifest.feature_names)} features in {number:,} parts of {UNIT}, written "
        f"in {wrote:.0f} s; {after} after compaction.",
        "", "| what | s | peak resident set, GB |", "| --- | --- | --- |",
    ]  # fmt: skip
    return [*lines, *(f"| {name} | {t['s']:.2f} | {t['peak'] / 1e9:.2f} |" for name, t in timed.items())]


def machine() -> str:
    """Where and with what this ran."""
    import importlib.metadata as packages

    names = ", ".join(f"{name} {packages.version(name)}" for name in ("numpy", "pyarrow", "torch"))
    load = os.getloadavg()[0]
    cores = f"{os.cpu_count()} logical processors shared with other work (load {load:.1f})"
    return f"{datetime.date.today()}, {cores}, one thread; Python {platform.python_version()}, {names}."


def write(parts_: dict[str, str]) -> None:
    """Put the section into RESULTS.md; parts that were not measured stay."""
    text = RESULTS.read_text(encoding="utf-8")
    head, found, rest = text.partition(TITLE + "\n")
    cut = rest.find("\n## ") if found else -1
    own, tail = (rest[:cut], rest[cut:]) if cut >= 0 else (rest, "\n")
    known = {piece.split("\n")[0]: piece.split("\n", 1)[1].strip() for piece in own.split("### ")[1:]}
    body = "\n\n".join(f"### {name}\n{content}" for name, content in {**known, **parts_}.items())
    temporary = RESULTS.with_name(f".{RESULTS.name}.tmp")
    temporary.write_text(f"{head.rstrip()}\n\n{TITLE}\n{body}\n{tail}".rstrip() + "\n", encoding="utf-8")
    temporary.replace(RESULTS)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=1000, help="at most 1000")
    parser.add_argument("--only", choices=("training", "parts"))
    parser.add_argument("--folder", type=Path, help="in which the tables are written; a temporary folder by default")
    parser.add_argument("--table", type=Path, help="train on this table of an earlier run, and keep it")
    parser.add_argument("--write", action="store_true", help="also into benchmarks/RESULTS.md")
    parser.add_argument("--child", nargs=2, metavar=("TABLE", "CONFIG"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(Path(options.child[0]), json.loads(options.child[1]))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        done = {}
        if options.only != "parts":
            done["From a table to a posterior"] = training(Path(folder), options.rows, options.features, options.table)
        if options.only != "training":
            done["Many small parts"] = parts(Path(folder), options.rows)
    texts = {name: "\n".join([machine(), "", *lines]) for name, lines in done.items()}
    print("\n\n".join(f"### {name}\n{text}" for name, text in texts.items()))
    if options.write:
        write(texts)


if __name__ == "__main__":
    main()
