"""One day of a culture, from a trained posterior to its subspace: the `culture` of `benchmarks.subspace`."""

import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import Any

from sbi_circuits.cultures import culture
from sbi_circuits.demo import demo_table
from sbi_circuits.ensemble import Ensemble, build_ensemble
from sbi_circuits.inference import Posterior, TrainingData, load_posterior
from sbi_circuits.nearby import nearby_ensemble
from sbi_circuits.results import load_ensemble, save_ensemble
from sbi_circuits.subspace import Growth, Plan, Runner, analyse, grow, save_subspace

PLAN = Plan(members=8, paths=5, points=7, walks=3, steps=4)
_FIRST = 16  # draws of the posterior, where it stands alone
_NEARBY = 32  # verified around the nearest simulations of the shipped table, before the ensemble grows
_BATCH = 64


class Clock:
    """Wall and processor time since the start, with that of worker processes that have ended."""

    def __init__(self) -> None:
        self.began, self.cpu = time.perf_counter(), _processor()

    def say(self, text: str) -> None:
        """Print a line behind the time spent."""
        spent = time.perf_counter() - self.began, _processor() - self.cpu
        print(f"{spent[0] / 60:.1f} min ({spent[1] / 60:.1f} of one processor): {text}", flush=True)


def _processor() -> float:
    return sum(used.ru_utime + used.ru_stime for used in map(getrusage, (RUSAGE_SELF, RUSAGE_CHILDREN)))


def culture_day(folder: Path, name: str, day: int, well: str, n: int, workers: int, table: bool = True) -> None:
    """An ensemble of one culture, grown to n verified configurations, and the report on its subspace.

    Args:
        folder: of the results; a run that was interrupted goes on there.
        name: of the posterior, or its folder.
        table: whether the first configurations may come from around the nearest simulations of the shipped table, as
            `infer` draws them, and the surrogate may learn from it.
    """
    source, clock = load_posterior(name), Clock()
    known = TrainingData.from_table(demo_table()) if table else None
    ensemble = _grown(source, folder / "ensemble.nc", day, well, n, workers, clock, known)
    report = analyse(source, ensemble, PLAN, Runner(workers=workers), known)
    save_subspace(report, folder / "subspace.nc")
    clock.say("all of it\n" + report.summary())


def _grown(
    source: Posterior, path: Path, day: int, well: str, n: int, workers: int, clock: Clock,
    known: TrainingData | None,
) -> Ensemble:  # fmt: skip
    if path.exists():
        ensemble = load_ensemble(path)
    else:
        options: dict[str, Any] = {"seed": 3, "workers": workers, "progress": False}
        if known is None:
            ensemble = build_ensemble(source, culture(day, well), _FIRST, max_draws=_FIRST, **options)
        else:
            ensemble = nearby_ensemble(source, culture(day, well), demo_table(), min(_NEARBY, n), **options)
        save_ensemble(ensemble, path)
        clock.say(f"{int(ensemble.verified.sum())} of {len(ensemble.theta)} draws verified")

    def report(growth: Growth, so_far: Ensemble) -> None:
        save_ensemble(so_far, path)
        clock.say(f"{growth.verified} of {growth.tried} verified ({growth.expected:.0%} expected), {growth.screened} "
                  f"given up after one seed, step {growth.step:.2f}; {int(so_far.verified.sum())} in all")  # fmt: skip

    runner = Runner(seed=len(ensemble.theta), workers=workers)
    return grow(source, ensemble, n, runner, batch=_BATCH, known=known, report=report)[0]
