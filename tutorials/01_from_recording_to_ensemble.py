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
# # From a recording to a verified ensemble
#
# A culture of rat cortical neurons fires in network bursts. Which configurations of a spiking network with
# 28 free parameters burst like it? This notebook answers the question for one culture, step by step:
#
#     prior -> theta -> simulate -> recording -> features -> table -> flow -> posterior -> ensemble -> verify
#
# It is `make demo` taken apart. At full size it takes about a quarter of an hour on two cores; with the
# environment variable `SBI_CIRCUITS_TUTORIAL_SIZE=small` it shows that every step runs, in under a minute,
# and its figures then mean nothing.

# %%
# %matplotlib inline
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import sbi_circuits
from sbi_circuits import TrainingConfig, get_circuit, plots, read_recording, save_ensemble, simulate, train, verify
from sbi_circuits.cultures import SOURCE, WINDOW, culture, culture_features, plate, typical_well
from sbi_circuits.demo import AIMED, demo_table
from sbi_circuits.features import DEFINED
from sbi_circuits.nearby import nearby_ensemble
from sbi_circuits.report import simulate_best

# %% [markdown]
# Everything that can be changed stands here. `RECORDINGS` is where the four recordings of the plate may lie;
# they are not part of the repository, and nothing below depends on them.


# %%
@dataclass(frozen=True)
class Size:
    """Verified members wanted and draws allowed; seconds shown, simulations tried; and how to train."""

    members: int
    draws: int
    shown_s: float
    tried: int
    workers: int
    config: TrainingConfig | None


QUICK = TrainingConfig(transform="coupling", members=1, hidden=24, layers=1, epochs=2)
SIZES = {
    "small": Size(1, 2, 2.0, 3, 1, QUICK),
    "full": Size(20, 60, 20.0, 40, os.cpu_count() or 1, None),
}
SIZE = SIZES[os.environ.get("SBI_CIRCUITS_TUTORIAL_SIZE", "full")]
DAY, SEED = 20, 0
WELL = typical_well(DAY)
OUT = Path("output")
pd.options.display.width = 150
RECORDINGS = Path(sbi_circuits.__file__).parents[2] / "shared" / "data" / "cultures"

print(f"{SOURCE}\nwell {WELL}, day {DAY}")

# %% [markdown]
# ## 1. The plate
#
# The plate has 48 wells with 16 electrodes each, recorded for about 15 minutes on days 9, 14, 20 and 23 in
# vitro. 35 wells are active on all four days. The package ships what this project measured in them: 22
# features of the network bursts in every window of 60 s, because the simulations below last 60 s too.
#
# A feature has a *state* besides its value. It is **defined** (a number), **undefined** (the recording has
# no such quantity: without three bursts in a minute there is no coefficient of variation of their intervals)
# or **unobserved** (electrodes cannot measure it: an electrode sums an unknown number of cells, so absolute
# rates mean nothing). What is not defined is shown as a dash; pandas wants NaN for it, the toolkit never
# uses one. The value of a well is the mean over the windows that define it, provided that at least half of
# them do.

# %%
features = culture_features()
names = [name.removeprefix("bursts.") for name in features.names]
measured = pd.DataFrame(
    [
        {"day": r.day, "well": r.well}
        | {
            name: value if state == DEFINED else np.nan
            for name, value, state in zip(names, r.features.values, r.features.states, strict=True)
        }
        for r in plate()
    ]
)
units = dict(zip(names, map(plots.unit_text, features.units), strict=True))


def quartiles(values):
    """Median and quartiles over the wells, and how many wells define the feature where not all do."""
    n = int(values.notna().sum())
    if not n:
        return "-"
    low, middle, high = values.quantile([0.25, 0.5, 0.75])
    return f"{middle:.3g} [{low:.3g}, {high:.3g}]" + (f" ({n})" if n < len(values) else "")


by_day = measured.drop(columns="well").groupby("day").agg(quartiles).T
by_day.insert(0, "unit", [units[name] for name in by_day.index])
print("median [quartiles] over 35 wells; in brackets how many wells define the feature, where not all do\n")
print(by_day.to_string())

# %% [markdown]
# Bursts become more frequent over the two weeks. Be careful with what a window of a minute can say about
# rare events: on day 9 a typical well bursts less than twice a minute, so the CV of its intervals is
# undefined, and the mean interval, about 10 s, is that of the minutes which happened to hold two bursts; 1.7
# bursts a minute are one in 35 s. Simulations of 60 s have the same bias, which is why both sides are
# measured in the same windows.

# %% [markdown]
# ## 2. One culture
#
# The observation is day 20 of the well that lies nearest the median of its day. Where the recording is at
# hand, we look at it and measure it again; the shipped values must come out.

# %%
observation = culture(DAY, WELL)
recording_file = RECORDINGS / f"epa_20140507_MW1007-103_div{DAY:02d}.npz"
recording = read_recording(recording_file, group=WELL) if recording_file.exists() else None
if recording is None:
    print(f"no recording {recording_file.name}: the shipped feature values are used")
else:
    again = features.measure_windows(recording, WINDOW)
    same = np.allclose(again.values, observation.values, rtol=1e-4, atol=1e-6)
    print(f"{recording.n_units} electrodes, {recording.duration:.0f} s, {len(recording.times)} spikes")
    print(f"measured again: {'the' if same else 'NOT the'} shipped values")

# %%
if recording is not None:
    start = recording.t0
    shown = plots.raster(recording, (start, start + 60.0), title=f"well {WELL}, day {DAY}: the first minute")
else:
    shown = "no recording, no raster"
shown

# %% [markdown]
# A recording of your own takes the same two lines, `read_recording(file, group=...)` and
# `features.measure_windows(recording, WINDOW)`. Files may be `.npz`, NWB, or of any format that neo reads.
#
# ## 3. The circuit and its prior
#
# The circuit is written once, in Brian2's equation language: 2000 adaptive exponential integrate-and-fire
# neurons with clustered excitatory connections, of which some are driven by Poisson input (Gao et al. 2024).

# %%
circuit = get_circuit("adex_clustered")
print(f"{circuit.title}\n{circuit.source}\n{circuit.population('exc').equations}")
for p in circuit.projections:
    print(f"{p.name:12} {p.source} -> {p.target}, weight {p.weight}, {p.wiring}")

# %% [markdown]
# The prior is what we hold possible before looking at data: 28 independent uniform distributions, with the
# bounds that were published.

# %%
defaults = dict(circuit.defaults)
pd.DataFrame(
    {
        "parameter": p.name,
        "unit": "" if p.unit == "1" else p.unit,
        "low": p.low,
        "high": p.high,
        "scale": p.scale,
        "default": defaults[p.name],
    }
    for p in circuit.prior.parameters
).set_index("parameter")

# %% [markdown]
# One simulation of the default configuration, with the fastest engine that is there. `engine="brian2"` runs
# the same circuit in Brian2, which is the reference and much slower.

# %%
(simulation,) = simulate(circuit, circuit.default_theta(), SIZE.shown_s, seed=SEED)
plots.raster(simulation.recording, title="the default configuration")

# %% [markdown]
# Bursts, but not the culture's: about two a second, a third of a second long, with pauses no longer than the
# bursts. Somewhere in 28 dimensions there are configurations that burst a few times a minute for some 60 ms,
# and are almost silent in between.
#
# Simulating from the prior is mostly in vain. An *outcome* says what became of a simulation; it is data, not
# an accident:
#
# - **ok**: the simulation ran to its end; only these can be measured and trained on;
# - **silent**, **saturated**: the first second after the transient showed that the cells do not fire, or
#   fire as fast as their refractory period allows; the simulation was stopped there;
# - **diverged**, **failed**: numbers left their range, or something broke; the row of the table keeps the
#   reason.

# %%
tried = list(simulate(circuit, circuit.prior.sample(SIZE.tried, SEED), duration=2.0, seed=SEED))
print(pd.Series([t.outcome.status for t in tried], name="simulations").value_counts().to_string())

# %% [markdown]
# ## 4. The table
#
# The table that the package ships was therefore made in rounds (`benchmarks/demo_table.py`): draws of the
# prior; of the prior restricted to where networks burst; then of posteriors for twelve cultures of the
# plate, each trained on all rows so far. Every row says what it
# was drawn from and carries an importance *weight*, the density of the prior over that of the mixture all
# rows came from. Aimed rows weigh little each; the effective number of rows, (sum of weights)^2 / (sum of
# squares), says how many draws of the prior they would be worth for a question about all of the prior. `train`
# uses the weights, truncated, and so answers for the published prior. Here we want circuits that survive
# verification, and train with `importance="none"`: the aimed proposals then stand in for the prior, and the
# marginals below show where such circuits were found, not how probable they are under the published prior.

# %%
table = demo_table()
protocol = table.manifest.protocol
rows = table.read()
print(f"{len(rows)} simulations of {protocol['duration']:g} s after a warm-up of {protocol['warmup']:g} s")
drawn_from = pd.Series(rows.proposal).str.partition("@")[0].rename("drawn from")
outcome = pd.Series(rows.outcome, name="outcome")
print(pd.crosstab(drawn_from, outcome, margins=True, margins_name="all").to_string())
ok = rows.outcome == "ok"
effective = rows.weight[ok].sum() ** 2 / (rows.weight[ok] ** 2).sum()
print(f"\neffective number of rows with outcome ok: {effective:.0f}")

# %% [markdown]
# Whether a posterior can say anything about the culture depends on whether the table holds dynamics like its
# own. The simulations are seen as the electrodes see the culture: random groups of 5 cells are summed into
# 16 channels.

# %%
seen = observation.states == DEFINED


def beside(f):
    """Observed value of feature f, and what the table holds."""
    defined = ok & (rows.states[:, f] == DEFINED)
    low, middle, high = np.quantile(rows.values[defined, f], [0.05, 0.5, 0.95]) if defined.any() else [np.nan] * 3
    return {
        "feature": features.names[f],
        "culture": observation.values[f],
        "sd over windows": observation.spread[f],
        "table 5 %": low,
        "median": middle,
        "95 %": high,
        "defined in": f"{defined.sum() / ok.sum():.0%}",
    }


pd.DataFrame([beside(f) for f in np.flatnonzero(seen)]).set_index("feature").round(3)

# %% [markdown]
# ## 5. Train, and look at what the posterior knows
#
# A conditional normalizing flow learns the distribution of theta given the features. Several are trained and
# averaged: where the table is too small to decide, they disagree, and their mixture is honest about it. The
# settings are derived from the number of rows.

# %%
posterior = train(table, SIZE.config or AIMED, progress=False, seed=SEED)
print("\n".join(line for line in posterior.log if " epoch " not in line))

# %% [markdown]
# The last line is the one to read. The gain over the prior, in nats, is how much better than the prior the
# posterior predicts configurations it was not trained on, given their features. Zero means that nothing was
# learned; a much higher gain on the rows it was trained on means that it has begun to learn them by heart.

# %%
plots.training_curve(posterior)

# %% [markdown]
# Before asking for configurations, ask whether the observation is one that the simulations could have
# produced. A flow answers with confidence far away from anything it has seen; this check says when.

# %%
check = posterior.check(observation)
print(check.summary())

# %% [markdown]
# `posterior(x)` is a distribution. Its marginals against the prior show which parameters the 60 s statistics
# of bursts constrain, one at a time. Most stay wide, and that is an answer too: many different circuits
# burst alike. Directions that are constrained only jointly do not show here.

# %%
theta = posterior(observation).sample(2000, SEED)
plots.marginals(theta, posterior.prior, title=f"posterior of well {WELL}, day {DAY}")


# %%
def width(configurations):
    """Width of the central 90 % of each parameter as a share of the prior's."""
    low, high = np.quantile(posterior.prior.to_unit(configurations), [0.05, 0.95], axis=0)
    return pd.Series((high - low) / 0.9, index=posterior.prior.names)


print("the parameters known best; 1 is the width of the prior\n")
print(width(theta).sort_values().head(8).round(2).to_string())

# %% [markdown]
# ## 6. The ensemble: nothing is believed until it is simulated again
#
# Draws from the posterior are candidates. Each is simulated again with two seeds and measured as the culture
# was. It is **verified** if every feature the culture defines agrees, and every feature the culture lacks is
# lacking there too. The unit of a difference is the standard deviation it would have if culture and
# simulation were one circuit: its variability from seed to seed, and the sampling error of the recording.
# The bound is set so that the right circuit is rejected with a probability of 5 %, over all features
# together.

# %%
options = {"seed": SEED, "workers": SIZE.workers, "folder": OUT / "resimulations", "progress": False}
ensemble = posterior.ensemble(observation, SIZE.members, max_draws=SIZE.draws, **options)
print(ensemble.summary())
print(f"wrote {save_ensemble(ensemble, OUT / 'ensemble.nc')}")

# %% [markdown]
# The **yield** is the share of draws that were verified. What the others failed in says where circuit and
# culture, or posterior and circuit, differ: each share counts the draws that disagree in this feature,
# whatever else they disagree in.

# %%
pd.Series(ensemble.rejections(), name="share of draws").head(12).round(2).to_frame()

# %% [markdown]
# The flows know 28 parameters vaguely: between the simulations of the table they smooth, and much of their mass
# lies on circuits that do something else. Simulations that lie near the culture are in the table already. They are
# simulated again, and drawn around by the share that agreed; of many candidates only those are simulated that a
# regression on what was simulated expects to agree, and where few agree it first closes in on the culture. They
# are circuits that reproduce the recording, and no sample of the posterior: how probable each kind is they do not
# say. `infer` without `--posterior` draws in this way.

# %%
near = nearby_ensemble(posterior, observation, table, SIZE.members, max_draws=SIZE.draws, **options)
print(near.summary())
print(f"\nyield: {ensemble.yield_:.0%} of posterior draws, {near.yield_:.0%} of draws around near simulations")

# %% [markdown]
# Feature by feature: each dot is one configuration, the band is what counts as agreement, and the ticks are
# windows of the recording. A row with all dots on one side is a feature that this circuit, as far as this
# posterior knows it, does not reproduce.

# %%
plots.feature_comparison(ensemble, title=f"well {WELL}, day {DAY}")

# %%
best = simulate_best(ensemble)
title = "the closest verified configuration" if ensemble.verified.any() else "the closest one (not verified)"
best.outcome if best.recording is None else plots.raster(best.recording, title=f"{title}, another seed")

# %% [markdown]
# Being verified is itself a measurement with noise: a configuration at the edge of agreement passes with one
# pair of seeds and fails with another. Simulating the members once more, with new seeds, says how firm the
# verdict is.

# %%
if ensemble.verified.any():
    again = verify(ensemble, seed=SEED + 1, workers=SIZE.workers, progress=False)
    print(f"{again.verified.sum()} of {len(again.theta)} members agree again with new seeds")
else:
    print("no configuration was verified: there is nothing to simulate once more")

# %% [markdown]
# Pairs of the verified members, where there are enough of them, show what the marginals cannot: parameters
# that compensate for one another.

# %%
enough = len(ensemble.members) >= 5
shown = ensemble.members if enough else theta[:300]
plots.pair(shown, posterior.prior, title="verified members" if enough else "posterior draws, not verified")

# %% [markdown]
# ## 7. What to trust
#
# The figures of this very run:

# %%
figures = posterior.provenance["validation"]
gain, error = figures["validation_gain"], figures["validation_gain_error"]
print(f"trained on {ok.sum()} simulations, worth {effective:.0f} of the prior, for {len(posterior.prior)} parameters")
print(f"gain over the prior on held-out rows: {gain:.1f} +- {error:.1f} nats")
print(f"observation of day {DAY}: {'inside' if check.inside else 'OUTSIDE'} the simulations")
for drawn, found in (("from the posterior", ensemble), ("around near simulations", near)):
    n, m = int(found.verified.sum()), len(found.theta)
    print(f"{n} of {m} draws {drawn} reproduced the culture when they were simulated again")

# %% [markdown]
# - **The verified members** are what this notebook found. Each of them, simulated again, reproduced what was
#   measured in the culture, within the stated rule. They are examples, not all there is, and the rule knows
#   only the features in it.
# - **The marginals** are what so small a table can tell about 28 parameters. They are wide where the table
#   is thin as well as where the data say nothing, and the two cannot be told apart without simulating more.
#   A larger table of your own continues this one: `sbi-circuits simulate`, then `sbi-circuits infer --table
#   ... --table ...`.
# - **Observations outside the simulations** get an answer too, and it should not be believed. A low yield
#   says the same more slowly.
# - **A culture is not this circuit.** Agreement in the statistics of network bursts, seen through 16
#   electrodes, does not make the configuration the mechanism. It makes it one of many circuits of this kind
#   that a recording like this cannot exclude.
# - **Electrodes are not cells.** Absolute rates are not compared at all; which cells an electrode hears, and
#   how many, is modelled crudely (5 random ones).
#
# What changes as the culture ages is asked in `06_cultures_over_development`.
#
# The data: Cotterill et al. 2016, doi 10.1177/1087057116640520. The circuit: Gao et al. 2024, doi
# 10.1101/2024.08.21.608969.
