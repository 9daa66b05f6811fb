"""Time every engine on the same simulations, in one run on one machine.

    python -m benchmarks.engines                         print every part
    python -m benchmarks.engines --only cores --write    one part, also into benchmarks/RESULTS.md

Repeats are interleaved, so that another load on the machine meets all engines alike; medians and, in brackets, minima.
Every engine runs in a process of its own on one thread. Seconds are those of the simulation alone (wiring, building and
compiling are listed apart), per second of simulated time; all engines of a comparison simulate the same time, because
rates fall over the first seconds and costs with them.
"""

import argparse
import datetime
from collections.abc import Callable
from pathlib import Path

from benchmarks.engines.machine import description, load
from benchmarks.engines.networks import measure_brunel, measure_cores, measure_sizes
from benchmarks.engines.single import (
    NEST_DURATION,
    ROW,
    WHOLE,
    Options,
    measure_configurations,
    measure_draws,
    measure_whole,
)
from benchmarks.engines.tables import write

RESULTS = Path(__file__).resolve().parents[1] / "RESULTS.md"
Part = tuple[str, Callable[[Options], str], str]


def parts(options: Options) -> dict[str, Part]:
    """Short name -> title, measurement, what is measured."""
    seconds = f"{options.duration:g} s"
    return {
        "configurations": (
            "Fixed configurations, CPU",
            measure_configurations,
            f"`adex_clustered`, 2000 neurons, {seconds} from the start without early stop (NEST: "
            f"{NEST_DURATION:g} s). NEST runs a near equivalent, `aeif_cond_exp`, on the same synapses: adaptive "
            "Runge-Kutta in place of forward Euler, and a delay of one step (0.2 ms) where the circuit has none.",
        ),
        "whole": (
            "One simulation from nothing, CPU",
            measure_whole,
            f"The check configuration, {WHOLE:g} s, drawing and building the network included, compiling not; "
            f"of kernel[numba] the mean of {ROW} in a row.",
        ),
        "draws": (
            "Prior draws with early stop, CPU",
            measure_draws,
            f"The first {options.draws} prior draws of seed 0, at most {seconds} each, wiring and building included.",
        ),
        "brunel": ("Brunel's network, NEST and the kernel, CPU", measure_brunel, "12,500 neurons, 15.6 M synapses."),
        "sizes": (
            "Network size, CPU",
            measure_sizes,
            f"`adex_clustered`, check configuration, {options.duration / 5:g} s, in-degrees as at 2000 neurons.",
        ),
        "cores": ("Two processes, CPU", measure_cores, f"{seconds} of the check configuration."),
    }


def main() -> None:
    names = list(parts(Options()))
    parser = argparse.ArgumentParser(prog="benchmarks.engines", description="Time every engine in one run.")
    add = parser.add_argument
    add("--only", nargs="+", choices=names, default=names, help="parts to run")
    add("--without", nargs="+", default=[], metavar="ENGINE", help="engines to leave out, e.g. 'brian2 standalone'")
    add("--write", action="store_true", help=f"write the parts into {RESULTS.name}")
    add("--repeats", type=int, default=3)
    add("--duration", type=float, default=10.0, help="simulated seconds")
    add("--draws", type=int, default=8, help="prior draws")
    given = parser.parse_args()
    options = Options(given.duration, given.repeats, given.draws, tuple(given.without))
    known, machine, done = parts(options), description(), {}
    print(machine, flush=True)
    for name in given.only:
        title, measure, what = known[name]
        print(f"\n{title}", flush=True)
        busy = load()
        body = measure(options)
        context = f"{datetime.date.today()}, {machine}; load average {busy} before, {load()} after."
        done[title] = f"{what} {options.repeats} interleaved repeats: median (minimum). {context}\n\n{body}"
        print(f"\n{done[title]}", flush=True)
    if given.write:
        write(RESULTS, done, [title for title, _, _ in known.values()])
        print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
