# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Invariant subspaces
#
# A recording does not fix the circuit that made it. It leaves a set of configurations with the same dynamics, thin in
# some directions, long in others, and bent. This notebook makes that set something one can measure, walk along,
# condition, and compare between recordings. And it simulates: **no direction is believed because a flow says so**.
#
# 1. a set that is known exactly, to learn the tools with;
# 2. a balanced network, its posterior, and an ensemble grown over its subspace;
# 3. directions: stiff and sloppy ones, and what simulation makes of them;
# 4. paths and walks;
# 5. conditions: "everything that fits the data, with inhibition at half strength";
# 6. is it another subspace for another recording?
# 7. which experiment would tell the members apart?
#
# How long it takes at full size has not been measured yet; with the environment variable
# `SBI_CIRCUITS_TUTORIAL_SIZE=small` it shows that every step runs, and its figures then mean little.

# %%
# %matplotlib inline
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sbi_circuits import (
    Campaign,
    Circuit,
    FeatureSet,
    FixedIndegree,
    Parameter,
    PoissonInput,
    Population,
    Prior,
    Projection,
    Protocol,
    Record,
    TrainingConfig,
    plots,
    register,
    run_campaign,
    simulate,
    train,
)
from sbi_circuits.circuit import Composite
from sbi_circuits.ensemble import build_ensemble
from sbi_circuits.features import UNOBSERVED, FeatureValues
from sbi_circuits.features.states import summarise
from sbi_circuits.subspace import (
    Conditioner,
    Perturbation,
    Plan,
    Runner,
    analyse,
    compare_subspaces,
    condition,
    coverage,
    density_paths,
    grow,
    members_of,
    neighbour_dimension,
    predict,
    rank_features,
    resimulate_like,
    save_subspace,
    walk,
)
from sbi_circuits.subspace.examples import ring


# %%
@dataclass(frozen=True)
class Size:
    """Simulations to train on, their length, windows of the recording, members wanted, and how much is looked at."""

    measured: tuple[str, ...]
    rows: int
    duration: float
    windows: int
    draws: int
    members: int
    plan: Plan
    repeats: int
    workers: int
    config: TrainingConfig | None


QUICK = TrainingConfig(transform="coupling", members=1, hidden=24, layers=1, epochs=6)
SMALL = Plan(members=4, paths=2, points=4, explored=1, walks=2, steps=2)
SIZES = {
    "small": Size(("isi.rate_mean",), 300, 1.0, 4, 120, 24, SMALL, 2, 1, QUICK),
    "full": Size(("isi.rate_mean", "isi.cv_mean"), 4000, 5.0, 8, 300, 150, Plan(), 4, os.cpu_count() or 1, None),
}
SIZE = SIZES[os.environ.get("SBI_CIRCUITS_TUTORIAL_SIZE", "full")]
SEED = 0
OUT = Path("output") / "subspaces"

# %% [markdown]
# ## 1. A set that is known
#
# `ring` constrains two parameters to lie on a circle, up to a noise. All lengths here are *prior-scaled*: in
# coordinates where the prior is a standard normal, whatever the units of the parameters.
#
# How many dimensions has a noisy circle? That depends on how closely one looks: two within its thickness, one beyond.

# %%
circle = ring(noise=0.1, radius=1.5)
scales = neighbour_dimension(circle.sample_z(1000, SEED))
for k, distance, dimension in zip(scales.neighbours, scales.distance, scales.dimension, strict=True):
    print(f"{2 * k:4d} neighbours, within {distance:.2f} prior sd: dimension {dimension:.2f}")

# %% [markdown]
# A **path of high density** joins two configurations along the set, where the straight line between them would cross
# a desert. A **walk** follows the sloppy direction, and corrects itself as the set bends. A **condition** holds one
# parameter at a value and leaves the others free; on the ring, both sides remain.

# %%
ends = np.array([[1.5, 0.0], [-1.5, 0.3]])
path = density_paths(circle, ends[:1], ends[1:])
print(f"the lowest point of the path lies {path.gain[0]:.0f} nats above that of the straight line")
steps = walk(circle, ends[:1], dimension=1, steps=20)
print("distance from the centre along a walk:", np.linalg.norm(steps.z[0], axis=1)[::5].round(3))
half = condition(circle, {"p0": 0.3}, n=500)
print(f"{(half.theta[:, 1] > 0).mean():.0%} of the conditional draws above, the others below")

# %% [markdown]
# ## 2. A balanced network
#
# Four free parameters, and a **composite** that the circuit defines by name: the depolarisation by the external drive.


# %%
def cells(group, size):
    """Leaky integrate-and-fire cells with exponential synapses."""
    equations = "dv/dt = (v_rest - v + I)/tau_m : volt (unless refractory)\ndI/dt = -I/tau_s : volt"
    initial = {"v": "v_rest + 15*mV*rand()"}
    return Population(group, size, equations, "v > -50*mV", "v = v_rest", refractory="2*ms", initial=initial)


def synapses(source, target, number, weight):
    effect = "I_post += weight"
    return Projection(f"{source}2{target}", source, target, FixedIndegree(number), weight, effect, delay="1.5*ms")


network = register(
    Circuit(
        name="subspace_network",
        title="Small balanced network",
        prior=Prior(
            (
                Parameter("J", "mV", 0.2, 5.0, scale="log"),
                Parameter("g", "1", 2.0, 8.0),
                Parameter("tau_m", "ms", 5.0, 40.0),
                Parameter("rate", "Hz", 5.0, 100.0),
            )
        ),
        populations=(cells("exc", "160"), cells("inh", "40")),
        projections=(
            *(synapses("exc", target, "16", "J") for target in ("exc", "inh")),
            *(synapses("inh", target, "4", "-g*J") for target in ("exc", "inh")),
        ),
        inputs=tuple(PoissonInput(target, "I", "100", "rate", "J") for target in ("exc", "inh")),
        constants={"v_rest": "-65*mV", "tau_s": "5*ms"},
        defaults={"J": 1.0, "g": 5.0, "tau_m": 20.0, "rate": 40.0},
        composites=(Composite("drive", "100*rate*J*tau_s", "mV", "mean external input"),),
    )
)
FEATURES = FeatureSet.of("isi")
PROTOCOL = Protocol(duration=SIZE.duration, warmup=0.2, record=Record(spikes=50, moments=True))
campaign = Campaign(network, SIZE.rows, FEATURES, PROTOCOL, seed=SEED)
table = run_campaign(campaign, OUT / f"table-{SIZE.rows}", workers=SIZE.workers, progress=False)
posterior = train(table, SIZE.config, progress=False, seed=SEED)
print(posterior.log[-1])

# %% [markdown]
# The "recording" is a simulation of the default configuration, in windows as long as the simulations of the table.
# Our experiment measured only the mean rate and the irregularity of the intervals: two numbers for four parameters.
# What was not measured is *unobserved*, and the posterior does without. Its draws are simulated again, and those that
# agree are the first members of the ensemble.

# %%
MEASURED = np.isin(FEATURES.names, SIZE.measured)


def seen(values):
    """The features of one window, without what the experiment did not measure."""
    return FeatureValues(np.where(MEASURED, values.values, 0.0), np.where(MEASURED, values.states, UNOBSERVED))


def recording_of(theta, seed):
    """Windows of one configuration, each simulated with a seed of its own, as the features of a recording."""
    many = np.repeat(np.atleast_2d(theta), SIZE.windows, axis=0)
    runs = simulate(network, many, SIZE.duration, seed=seed, warmup=0.2, record=PROTOCOL.record)
    return summarise([seen(FEATURES.measure(run.recording)) for run in runs])


truth = network.default_theta()
x = recording_of(truth, seed=77)
ensemble = build_ensemble(posterior, x, SIZE.members // 2, max_draws=SIZE.draws, seed=SEED, workers=SIZE.workers,
                          progress=False)  # fmt: skip
print(ensemble.summary())

# %% [markdown]
# From these the ensemble **grows**: a *surrogate*, a Gaussian process that learns anew in every round from all that was
# simulated near the members, the rejected configurations included, says which moved members and which posterior draws
# may well be verified; those are simulated, and what agrees becomes a member. What the surrogate expects is printed
# beside what was found: it proposes, and verifies nothing. A configuration whose first seed is far out gets no second.

# %%
runner = Runner(repeats=SIZE.repeats, seed=1, workers=SIZE.workers)
drawn = coverage(posterior(x), ensemble.members)
ensemble, rounds = grow(posterior, ensemble, SIZE.members, runner, most=4 * SIZE.members)
for growth in rounds:
    print(f"{growth.verified} of {growth.tried} verified ({growth.expected:.0%} expected), steps of {growth.step:.2f}")
print(f"before: {drawn.summary()}\nafter:  {coverage(posterior(x), ensemble.members).summary()}")

# %% [markdown]
# ## 3. Directions
#
# `analyse` does the rest: the geometry of the members; at some of them the **information** of the data along each
# direction, by the exact curvature of the learned likelihood (on the ridge of the posterior, so that its bending does
# not count as stiffness); and moves along the sloppiest, the stiffest and a random direction, each **simulated** with
# several seeds. The unit of every feature change is the standard deviation from seed to seed.

# %%
report = analyse(posterior, ensemble, SIZE.plan, runner)
print(report.summary())

# %%
plots.spectrum_plot(report.local, report.average, posterior.prior)

# %%
plots.direction_plot(report.directions)

# %% [markdown]
# ## 4. Paths and walks, simulated at regular points
#
# A path sets out along a chain of neighbouring members and keeps the features of its ends. Between members that
# stand alone nobody has simulated: its points are simulated, the surrogate learns from them, and the path is
# sought anew. What proves it are other simulations. They are compared with the ends, which get eight seeds for
# that; the same points on the straight line, and as far out in a random direction, are the controls: what stays
# there would stay anywhere. The failure rate belongs to every figure: a point whose simulation is silent, or that
# lost a feature, has failed.

# %%
plots.strip_plot(report.paths, report.paths_proof, controls=report.controls)

# %%
plots.strip_plot(report.walks, report.walks_proof, "sloppy walks")

# %%
plots.path_pairs(ensemble.members, report.paths, posterior.prior)

# %%
runs = simulate(network, report.paths.theta[0], SIZE.duration, seed=3, record=PROTOCOL.record)
plots.path_rasters([run.recording for run in runs], seconds=2.0)

# %% [markdown]
# ## 5. Conditions
#
# Everything that fits the data *and* has inhibition at half strength. No training: the first condition draws from the
# posterior once, and every further one takes a moment.

# %%
conditioner = Conditioner(posterior(x), SEED)
for fixed, bounded in (({"g": 2.5}, {}), ({}, {"tau_m": (30.0, 40.0)}), ({"J": 1.0}, {"g": (4.0, 6.0)})):
    print(conditioner.given(fixed, bounded, n=500).summary(posterior.prior.names))

# %% [markdown]
# ## 6. Another recording, another subspace?
#
# Two recordings of one circuit give two posteriors, which differ by chance. Distances between subspaces are read
# against this null: repeated simulations of single members, taken for recordings.

# %%
repeats = resimulate_like(ensemble, ensemble.members[:10], Runner(repeats=2 * SIZE.windows, seed=9))
repeats = repeats.only(MEASURED)  # as the recording was
other = dict(zip(network.prior.names, truth, strict=True)) | {"rate": 80.0}
observations = {"recording": x, "again": recording_of(truth, 78), "more drive": recording_of(list(other.values()), 79)}
comparison = compare_subspaces(posterior, observations, repeats, stiff=2, windows=SIZE.windows, most=8)
print(comparison.summary())
plots.between_plot(comparison)

# %% [markdown]
# ## 7. The next experiment
#
# The members are hypotheses that the recording could not tell apart. Which perturbation would? And which feature that
# was not measured? Each is worth the **information** its outcome is expected to give, in nats, about which member is
# right; unperturbed and measured as before, hardly any.

# %%
perturbations = [Perturbation.read(text) for text in ("block:inh:0.5", "block:exc:0", "scale:tau_m:1.5")]
effects = predict(ensemble, perturbations, runner, most=12)
print("\n".join(effect.summary() for effect in effects))
plots.effect_plot(effects)

# %%
for value in rank_features(ensemble, FEATURES, runner, most=12)[:5]:
    print(f"{value.name}: {value.information:.2f} +- {value.error:.2f} nats")

# %% [markdown]
# All of it goes into one NetCDF file; `sbi-circuits subspace` writes the same, with the figures.

# %%
print(save_subspace(report, OUT / "subspace.nc"), f"({len(members_of(ensemble))} members)")
