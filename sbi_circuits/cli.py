"""The command line: signatures only. The work of a command is loaded when it is called."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sbi_circuits.cli_campaign import app as campaign_app
from sbi_circuits.cli_table import app as table_app
from sbi_circuits.errors import SbiCircuitsError


class Commands(TyperGroup):
    """Turns the errors a user can mend into one line and exit status 2; Ctrl-C gives 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SbiCircuitsError as error:
            _stop(f"error: {' '.join(str(error).split())}", 2)
        except BrokenPipeError:
            raise  # the reader of a pipe has left: no error of ours
        except OSError as error:
            place = f": {error.filename}" if error.filename else ""
            _stop(f"error: {error.strerror or error}{place}", 2)
        except KeyboardInterrupt:
            _stop("interrupted", 130)


def _stop(line: str, status: int) -> None:
    print(line, file=sys.stderr)
    raise typer.Exit(status)


app = typer.Typer(
    cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False,
    help="Simulation-based inference for mechanistic models of neural circuits.",
)  # fmt: skip

app.add_typer(campaign_app, name="campaign")
app.add_typer(table_app, name="table")

Circuit = Annotated[str, typer.Argument(help="Name of a circuit; see `sbi-circuits list`.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write into.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of everything random.")]
Workers = Annotated[int, typer.Option("--workers", help="Processes to simulate in; -1 for one per core.")]
EngineName = Annotated[str, typer.Option("--engine", help="auto, kernel[numba] or brian2.")]
Group = Annotated[
    str | None, typer.Option("--group", help="Only the units of this well, population or electrode.")
]
View = Annotated[str, typer.Option("--view", help="cells, or channels: what electrodes can measure.")]
FlowFamily = Annotated[str, typer.Option("--family", help="Of the flows: batched, zuko or nflows.")]
Sets = Annotated[
    str, typer.Option(help="Feature families, comma-separated, or a JSON file that holds a feature set.")
]


def _version(shown: bool) -> None:
    if shown:
        from importlib.metadata import version

        typer.echo(f"sbi-circuits {version('sbi-circuits')}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Simulation-based inference for mechanistic models of neural circuits."""


@app.command("list")
def list_() -> None:
    """List the circuits there are."""
    from sbi_circuits import cli_circuits

    cli_circuits.list_all()


@app.command()
def describe(circuit: Circuit) -> None:
    """Describe a circuit: populations, projections, inputs, parameters."""
    from sbi_circuits import cli_circuits

    cli_circuits.describe(circuit)


@app.command()
def features(
    recording: Annotated[Path, typer.Argument(help=".npz, .nwb, or a format that neo reads.")],
    group: Group = None,
    set_: Annotated[str, typer.Option("--set", help="Feature families, comma-separated, or a JSON file.")] =
    "isi,bursts,spectrum",
    view: View = "cells",
    window: Annotated[float | None, typer.Option(help="Seconds of a window; all of it if not given.")] =
    None,
    all_groups: Annotated[bool, typer.Option("--all-groups", help="One row per group.")] = False,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write an observation file.")] = None,
    csv_out: Annotated[Path | None, typer.Option("--csv", help="Write the features as a table.")] = None,
) -> None:  # fmt: skip
    """Measure the features of a recording."""
    from sbi_circuits import cli_features

    cli_features.features(recording, group, set_, view, window, all_groups, json_out, csv_out)


@app.command()
def simulate(
    circuit: Circuit,
    out: Out,
    n: Annotated[int, typer.Option("--n", help="How many simulations the table is to hold.")] = 100,
    duration: Annotated[float, typer.Option(help="Of each simulation, seconds.")] = 10.0,
    seed: Seed = 0,
    warmup: Annotated[float, typer.Option(help="Simulated first and not recorded, seconds.")] = 0.0,
    workers: Workers = 1,
    engine: EngineName = "auto",
    features: Sets = "isi,bursts,spectrum",
    view: View = "cells",
    prior: Annotated[
        Path | None, typer.Option(help="TOML file with another prior over the parameters.")
    ] = None,
    keep_recordings: Annotated[bool, typer.Option("--keep-recordings", help="Keep every recording.")] = False,
    keep_every: Annotated[
        int, typer.Option("--keep-every", min=0, help="Keep the recording of every so many-th simulation only.")
    ] = 0,
    spikes: Annotated[int, typer.Option(help="Cells whose spikes are recorded; -1 for all.")] = 100,
    unit: Annotated[int, typer.Option(min=1, help="Simulations per unit of work.")] = 16,
    time_limit: Annotated[float | None, typer.Option(help="Seconds that a unit may take.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Write the plan, for `campaign run`; run nothing.")] = False,
    default: Annotated[
        bool, typer.Option("--default", help="Run the circuit's default configuration once.")
    ] = False,
) -> None:
    """Fill a table with simulations drawn from the prior; run it again to go on after an interruption."""
    from sbi_circuits import cli_simulate

    if default:
        cli_simulate.simulate_default(circuit, out, duration, warmup, seed, engine, spikes)
    else:
        cli_simulate.simulate(circuit, out, n, duration, seed, warmup, workers, engine, features, view, prior,
                              keep_every or int(keep_recordings), spikes, unit, time_limit, plan)  # fmt: skip


@app.command()
def train(
    tables: Annotated[list[Path], typer.Argument(help="Folders of campaigns, or exported .parquet files.")],
    out: Out,
    family: FlowFamily = "batched",
    seed: Seed = 0,
) -> None:
    """Train a posterior on one table, or on several put together."""
    from sbi_circuits import cli_infer

    cli_infer.train_posterior(tables, out, family, seed)


@app.command()
def infer(
    recording: Annotated[Path | None, typer.Option(help="The recording to explain.")] = None,
    group: Group = None,
    features: Annotated[
        Path | None, typer.Option(help="An observation file, in place of a recording.")
    ] = None,
    posterior: Annotated[Path | None, typer.Option(help="Folder of a posterior, or the name of a shipped one.")] = None,
    table: Annotated[list[Path] | None, typer.Option(help="Tables to train one on; may be repeated.")] = None,
    n: Annotated[int, typer.Option("--n", help="How many verified configurations are wanted.")] = 100,
    out: Out = Path("inference"),
    max_draws: Annotated[
        int | None, typer.Option(help="Draws after which to stop short of n; 4 n by default.")
    ] = None,
    family: FlowFamily = "zuko",
    refine: Annotated[
        bool, typer.Option("--refine", help="Simulate towards this recording, train on that, and draw again.")
    ] = False,
    round_size: Annotated[int, typer.Option("--round", min=60, help="Simulations of --refine.")] = 1000,
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, help="Most rounds of --refine; they stop when another is not worth it.")
    ] = 1,
    draw: Annotated[
        str, typer.Option("--draw", help="Candidates: from the posterior, or nearby, around the nearest simulations.")
    ] = "auto",
    seed: Seed = 0,
    workers: Workers = 1,
    engine: EngineName = "auto",
) -> None:
    """Infer an ensemble of configurations that reproduce a recording, each verified by simulating it again.

    Without a recording it explains the demonstration's; without posterior or table it uses the posterior that ships,
    `adex_clustered`, and draws around the simulations it was trained on. Otherwise candidates are posterior draws.
    """
    from sbi_circuits import cli_infer

    wanted = cli_infer.Wanted(n, max_draws, seed, workers, engine, round_size if refine else 0, rounds, draw)
    cli_infer.infer(recording, group, features, posterior, tuple(table or ()), family, wanted, out)


@app.command()
def verify(
    ensemble: Annotated[Path, typer.Argument(help="An ensemble.nc that `infer` wrote.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the new simulations.")] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the result as another NetCDF file.")
    ] = None,
    all_draws: Annotated[
        bool, typer.Option("--all-draws", help="Simulate rejected configurations too.")
    ] = False,
    workers: Workers = 1,
    engine: EngineName = "auto",
) -> None:
    """Simulate the members of an ensemble once more, with new seeds, and say how many agree again."""
    from sbi_circuits import cli_infer

    cli_infer.verify_again(ensemble, seed, out, all_draws, workers, engine)


@app.command()
def report(
    ensemble: Annotated[Path, typer.Argument(help="An ensemble.nc that `infer` wrote.")],
    recording: Annotated[Path | None, typer.Option(help="The observed recording, to be shown.")] = None,
    group: Group = None,
    posterior: Annotated[Path | None, typer.Option(help="Folder of the posterior, for its training.")] = None,
    calibration: Annotated[Path | None, typer.Option(help="A calibration.json that `calibrate` wrote.")] = None,
    out: Out = Path("report"),
    engine: EngineName = "auto",
) -> None:
    """Write the report of an ensemble: one HTML page that needs no network, figures, and a summary."""
    from sbi_circuits import cli_infer

    cli_infer.report_on(ensemble, recording, group, posterior, calibration, out, engine)


@app.command()
def calibrate(
    posterior: Annotated[Path, typer.Argument(help="Folder of a trained posterior.")],
    table: Annotated[Path, typer.Option(help="Simulations that it was not trained on.")],
    recording: Annotated[Path | None, typer.Option(help="Judge it at this observation too.")] = None,
    group: Group = None,
    features: Annotated[Path | None, typer.Option(help="An observation file, in place of a recording.")] = None,
    subset: Annotated[
        list[str] | None, typer.Option(help="Judge it with only these families observed; may be repeated.")
    ] = None,
    rows: Annotated[int, typer.Option(help="Most simulations to judge it by.")] = 600,
    draws: Annotated[int, typer.Option(help="Of the posterior of each.")] = 400,
    all_rows: Annotated[
        bool, typer.Option("--all-rows", help="Rows of aimed proposals too, where they stood in for the prior.")
    ] = False,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Write a correction that infer uses from then on.")
    ] = False,
    out: Out = Path("calibration"),
    seed: Seed = 0,
) -> None:  # fmt: skip
    """Judge a posterior by simulations it has not seen: is it as sure as it should be?"""
    from sbi_circuits import cli_calibrate

    cli_calibrate.calibrate_posterior(posterior, table, recording, group, features, tuple(subset or ()), rows, draws,
                                      all_rows, recalibrate, seed, out)  # fmt: skip


@app.command()
def compare(
    recording: Annotated[Path | None, typer.Argument(help="The recording to explain.")] = None,
    group: Group = None,
    features: Annotated[Path | None, typer.Option(help="An observation file, in place of a recording.")] = None,
    table: Annotated[list[Path] | None, typer.Option(help="Simulations of one circuit; give two or more.")] = None,
    classifier: Annotated[
        Path | None, typer.Option(help="Folder that an earlier comparison wrote, in place of tables.")
    ] = None,
    out: Out = Path("comparison"),
    seed: Seed = 0,
) -> None:
    """Ask which of several circuits explains a recording."""
    from sbi_circuits import cli_calibrate

    cli_calibrate.compare(recording, group, features, tuple(table or ()), classifier, seed, out)


@app.command()
def subspace(
    ensemble: Annotated[Path, typer.Argument(help="ensemble.nc with verified members.")],
    posterior: Annotated[Path, typer.Option(help="Folder of the posterior it was drawn from.")],
    out: Out = Path("subspace"),
    n: Annotated[int, typer.Option("--n", help="Grow the ensemble to so many verified members first.")] = 0,
    most: Annotated[int, typer.Option(help="Configurations simulated at most while it grows.")] = 1000,
    members: Annotated[int, typer.Option(help="At which directions are measured and proved.")] = 12,
    paths: Annotated[int, typer.Option(help="Paths between members.")] = 6,
    walks: Annotated[int, typer.Option(help="Walks along sloppy directions.")] = 6,
    repeats: Annotated[int, typer.Option(help="Seeds per configuration.")] = 4,
    fix: Annotated[list[str] | None, typer.Option(help="name=value; may be repeated.")] = None,
    bound: Annotated[list[str] | None, typer.Option(help="name=low:high; may be repeated.")] = None,
    perturb: Annotated[
        list[str] | None, typer.Option(help="block:population:0.5, scale:parameter:2 or set:parameter:0.")
    ] = None,
    measure: Annotated[str, typer.Option(help="Feature families to rank by what they would tell.")] = "",
    compare: Annotated[
        list[Path] | None, typer.Option(help="Ensemble of another recording; may be repeated.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Simulations made already, such as the posterior's table, to learn from.")
    ] = None,
    seed: Seed = 1,
    workers: Workers = 1,
    engine: EngineName = "auto",
) -> None:
    """Ask along which directions the parameters of an ensemble can move without changing its dynamics."""
    from sbi_circuits import cli_subspace
    from sbi_circuits.subspace import Plan, Runner

    plan = Plan(members=members, paths=paths, walks=walks, seed=seed)
    runner = Runner(repeats=repeats, seed=seed, workers=workers, engine=engine)
    asked = cli_subspace.Asked(n, most, tuple(fix or ()), tuple(bound or ()), tuple(perturb or ()), measure,
                               tuple(compare or ()), table)  # fmt: skip
    cli_subspace.subspace(ensemble, posterior, out, plan, runner, asked)


@app.command()
def connectome(
    what: Annotated[str, typer.Argument(help="check, tuning, fit or silence.")],
    edges: Annotated[Path | None, typer.Option(help="Edge table to check: CSV or Parquet.")] = None,
    nodes: Annotated[Path | None, typer.Option(help="Table of its cells and their types.")] = None,
    gaps: Annotated[Path | None, typer.Option(help="Table of its gap junctions.")] = None,
    duplicates: Annotated[str, typer.Option(help="error, or sum: edges that are there several times.")] = "error",
    extent: Annotated[int, typer.Option(help="Of the fly's visual system, columns; published: 15.")] = 6,
    models: Annotated[int, typer.Option(help="How many, best first; to train, how many at once.")] = 5,
    fitted: Annotated[Path | None, typer.Option(help="models.safetensors in place of the published ones.")] = None,
    speed: Annotated[list[float] | None, typer.Option(help="Of edges, columns/s; may be repeated.")] = None,
    cell_type: Annotated[str | None, typer.Option("--type", help="Cell type to silence.")] = None,
    steps: Annotated[int, typer.Option(help="Of training.")] = 1000,
    device: Annotated[str, typer.Option(help="To train on: cpu or cuda.")] = "cpu",
    out: Out = Path("connectome"),
    seed: Seed = 0,
    workers: Annotated[int, typer.Option("--workers", help="Threads.")] = 1,
) -> None:
    """Circuits from a connectome: check a wiring, test models of the fly's eye, train some, silence a cell type."""
    from sbi_circuits import cli_connectome

    speeds = tuple(speed or (13.0, 19.0, 25.0))
    wanted = cli_connectome.Wanted(edges, nodes, gaps, duplicates, extent, models, fitted, speeds, cell_type, steps,
                                   seed, workers, device, out)  # fmt: skip
    cli_connectome.connectome(what, wanted)


@app.command()
def demo(
    out: Out = Path("demo_output"),
    workers: Annotated[
        int, typer.Option("--workers", help="Processes to simulate in; -1 for one per core.")
    ] = -1,
) -> None:
    """Infer the circuit behind a recording of a rat cortical culture, end to end."""
    from sbi_circuits.demo import demo as run_demo

    run_demo(out, workers)


def main() -> None:
    """Entry point of `sbi-circuits`."""
    app()
