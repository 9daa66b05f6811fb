"""Parts over networks: Brunel's against NEST, `adex_clustered` of many sizes, two processes against one."""

import statistics
from typing import Any

import numpy as np

from benchmarks.engines.client import KERNEL, NEST, Worker, theta_of, together, workers
from benchmarks.engines.nest_client import REGIMES, as_in_nest, brunel_task, run_nest
from benchmarks.engines.single import CIRCUIT, Options, configurations
from benchmarks.engines.tables import spread, table
from sbi_circuits.circuit import get_circuit

BRUNEL_TARGET, CORES_TARGET = 10.0, 1.8
SYNAPSE = "static_synapse_hom_w"  # the leanest of NEST's synapses that can do this network
SIZES = (500, 1000, 2000, 5000, 10_000, 20_000)
CONNECTIONS = ("p_e2e", "p_e2i", "p_i2e", "p_i2i")
PAIRS = 6  # of measurements, a second each, for a repeat
ROUNDS = 2_000_000  # passes of the multiply-add loop, about a tenth of a second each 10^6


def measure_brunel(options: Options) -> str:
    """The four regimes of Brunel 2000 at full size (12,500 neurons, 15.6 million synapses), NEST and the kernel."""
    present, skipped = options.present(NEST)
    circuit, rows = get_circuit("brunel"), []
    with workers(KERNEL) as (worker,):
        for regime, (g, eta, expected) in REGIMES.items():
            theta = np.array([g, eta, 0.1, 1.5])
            times = (0.2, 0.1) if expected < 100 else (0.1, 0.05)
            found = _nest(circuit, theta, times) if present else None
            rows.append(_regime(regime, (g, eta), _kernel(worker, circuit, theta, times, options.repeats), found))
    header = ["regime", "g, eta", "NEST", KERNEL, "faster than NEST by", "rate (Hz)", "CV"]
    note = (
        f"Processor seconds per simulated second of the simulation, one thread each; NEST once, with `{SYNAPSE}`; "
        f"the kernel: median (minimum) of {options.repeats}. 0.2 s after 0.1 s, in the last regime 0.1 s after 0.05 s. "
        "Delay 1.5 ms and threshold 20 mV as NEST understands them. Rate and CV: NEST / kernel, one seed each and too "
        "short to compare; `tests/test_nest.py` compares them over seeds and longer times. "
        f"Target: {BRUNEL_TARGET:g} times."
    )
    return "\n\n".join([table(header, rows), note, *skipped])


def _nest(circuit: Any, theta: np.ndarray, times: tuple[float, float]) -> dict[str, Any]:
    answer = run_nest(brunel_task(circuit, theta, *times, seed=1, synapse=SYNAPSE))
    cost = answer["cpu_s"] / sum(times)
    figures = f"{cost:.1f} s per s, {answer['rate']:.2f} Hz, CV {answer['cv']:.3f}, building {answer['build_s']:.0f} s"
    print(f"  {theta[:2]}, NEST: {figures}", flush=True)
    return {**answer, "cost": cost}


def _kernel(
    worker: Worker, circuit: Any, theta: np.ndarray, times: tuple[float, float], repeats: int
) -> list[dict[str, Any]]:
    moved, configuration = as_in_nest(circuit, theta)
    task = {
        "circuit": circuit.name, "constants": dict(moved.constants), "theta": configuration.tolist(),
        "duration": times[0], "warmup": times[1], "index": 0,
    }  # fmt: skip
    answers = []
    for _ in range(repeats):
        answer = worker.ask(do="simulate", **task)
        answers.append({**answer, "cost": answer["cpu_s"] / sum(times)})
        figures = f"{answers[-1]['cost']:.3f} s per s, {answer['mean_rate']:.2f} Hz, CV {answer['cv']:.3f}"
        print(f"  {theta[:2]}, {KERNEL}: {figures}, wiring {answer['build_s']:.2f} s", flush=True)
    return answers


def _regime(
    name: str, state: tuple[float, float], kernel: list[dict[str, Any]], nest: dict[str, Any] | None
) -> list[str]:
    costs = [a["cost"] for a in kernel]
    rate, cv = f"{kernel[0]['mean_rate']:.1f}", f"{kernel[0]['cv']:.3f}"
    where = [name, f"{state[0]:g}, {state[1]:g}"]
    if nest is None:
        return [*where, "-", spread(costs), "-", rate, cv]
    faster = f"{nest['cost'] / statistics.median(costs):.0f}"
    both = [f"{nest['rate']:.1f} / {rate}", f"{nest['cv']:.3f} / {cv}"]
    return [*where, f"{nest['cost']:.1f}", spread(costs), faster, *both]


def measure_sizes(options: Options) -> str:
    """The check configuration with 500 to 20,000 neurons, every neuron with as many synapses as at 2000."""
    circuit = get_circuit(CIRCUIT)
    values, rows = configurations()["asynchronous"], []
    duration = options.duration / 5
    with workers(KERNEL) as (worker,):
        for size in SIZES:
            scaled = {**values, **{p: values[p] * 2000 / size for p in CONNECTIONS}}
            task = {
                "circuit": CIRCUIT, "constants": {"n_total": str(size)}, "index": 0, "duration": duration,
                "theta": theta_of(scaled, circuit.prior.names),
            }  # fmt: skip
            answers = [worker.ask(do="simulate", **task) for _ in range(options.repeats)]
            costs = [a["cpu_s"] / duration for a in answers]
            print(f"  {size} neurons: {min(costs):.4f} s per s, {answers[0]['rate']:.1f} Hz", flush=True)
            per_neuron = 1e6 * min(costs) / size
            figures = [f"{answers[0]['rate']:.1f}", f"{min(a['build_s'] for a in answers):.3f}", f"{per_neuron:.1f}"]
            rows.append([str(size), str(answers[0]["synapses"]), spread(costs), *figures])
    header = ["neurons", "synapses", "processor s per s", "rate (Hz)", "wiring (s)", "us per neuron and s"]
    return table(header, rows)


def measure_cores(options: Options) -> str:
    """Two processes at once against one alone: the same simulation, and a loop that uses nothing but the core."""
    theta = theta_of(configurations()["asynchronous"], get_circuit(CIRCUIT).prior.names)
    simulation = {"do": "simulate", "circuit": CIRCUIT, "theta": theta, "duration": options.duration, "index": 0}
    rows = []
    with workers(KERNEL, KERNEL) as group:
        for name, task in ((f"{KERNEL}, asynchronous", simulation), ("multiply-adds", {"do": "fma", "rounds": ROUNDS})):
            together(group, **task)  # compiles
            alone, both = [], []
            for k in range(PAIRS * options.repeats):
                alone.append(1.0 / group[k % 2].ask(**task)["wall_s"])
                # Nothing waits for the slower one: workers of a campaign each take the next simulation.
                both.append(sum(1.0 / a["wall_s"] for a in together(group, **task)))
            speed = statistics.median(both) / statistics.median(alone)
            best = max(both) / max(alone)
            print(f"  {name}: two processes do {speed:.2f} ({best:.2f}) times the work of one", flush=True)
            rows.append([name, spread(alone, max), spread(both, max), f"{speed:.2f} ({best:.2f})"])
    header = ["work", "one process, per s", "two at once, per s", "work of two / work of one"]
    note = (
        f"{PAIRS * options.repeats} of each in turns: median (maximum). What two do is the sum of what each does while "
        f"both run. Target: {CORES_TARGET:g}. The multiply-add loop shares no memory and no cache: where two processes "
        "of it do less than twice the work of one, the logical processors are threads of one core, or another load has "
        "the rest."
    )
    return f"{table(header, rows)}\n\n{note}"
