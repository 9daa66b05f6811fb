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
# # Cultures over development
#
# Between days 9 and 23 in vitro a culture comes to burst more often. Which parameters of the circuit move with it? The
# posterior that ships answers for each day; whether its answers *differ* is another question, and most of them do not:
#
# 1. what changes in the recordings,
# 2. one culture on four days: differences of posteriors, with a control within one recording,
# 3. all cultures of the plate: which differences have one sign,
# 4. configurations verified by simulating them again, young and old,
# 5. a network of human iPSC-derived neurons.
#
# Some minutes on two cores; with `SBI_CIRCUITS_TUTORIAL_SIZE=small` every step runs in under a minute, and the figures
# mean nothing.

# %%
# %matplotlib inline
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from sbi_circuits import observe, read_recording
from sbi_circuits.cultures import DAYS, SOURCE, culture, plate
from sbi_circuits.demo import demo_posterior, demo_table
from sbi_circuits.features import DEFINED, WindowedFeatures
from sbi_circuits.features.states import FeatureValues, summarise
from sbi_circuits.nearby import nearby_ensemble
from sbi_circuits.plots.style import ACCENT, GREY, INK, blank, label, thin
from sbi_circuits.table import MemoryTable


@dataclass(frozen=True)
class Size:
    """Draws of each posterior, wells of the plate, and draws simulated again for an ensemble."""

    draws: int
    wells: int
    simulated: int


SIZES = {"full": Size(4000, 35, 64), "small": Size(300, 4, 4)}
SIZE = SIZES[os.environ.get("SBI_CIRCUITS_TUTORIAL_SIZE", "full")]
WELL = "A2"  # no round of simulations was aimed at it
HUMAN = next(
    (p for up in (Path.cwd(), *Path.cwd().parents) if (p := up / "shared/data/cultures/hipsc_tc75_d41.npz").exists()),
    None,
)
posterior, card = demo_posterior()
names = posterior.prior.names
print(card.summary())

# %% [markdown]
# ## 1. What changes in the recordings
#
# Medians over the cultures of one plate (Cotterill et al. 2016), by day.

# %%
print(SOURCE)
shown = ["rate_per_minute", "interval_mean", "interval_cv", "width_mean", "peak_to_mean", "fraction_in_bursts"]
columns = [posterior.feature_names.index(f"bursts.{name}") for name in shown]
measured = pd.DataFrame(
    [np.where(r.features.states == DEFINED, r.features.values, np.nan)[columns] for r in plate()],
    index=pd.MultiIndex.from_tuples([(r.day, r.well) for r in plate()], names=["day", "well"]), columns=shown,
)  # fmt: skip
measured.groupby("day").median().T.round(3)

# %%
TITLES = {"rate_per_minute": "bursts/min", "interval_mean": "interval (s)", "interval_cv": "CV of intervals",
          "width_mean": "width (s)"}  # fmt: skip
figure = blank(7.2, 2.3)
for axes, (name, title) in zip(figure.subplots(1, len(TITLES)), TITLES.items(), strict=True):
    wells = measured[name].unstack()
    median = wells.median(axis=1).where(wells.notna().mean(axis=1) >= 0.5)
    thin(axes, "left", "bottom").plot(wells.index, wells, color=GREY, lw=0.5, alpha=0.5)
    axes.plot(wells.index, wells[WELL], "o-", color=INK, lw=1.0, ms=3)
    axes.plot(wells.index, median, "o-", color=ACCENT, lw=1.6, ms=3)
    axes.set(xticks=DAYS, ylim=(0, None))
    label(axes, "day in vitro", title)
figure.suptitle(f"grey: wells, black: well {WELL}, blue: median where most define it", fontsize=8, x=0.01, ha="left")
figure

# %% [markdown]
# ## 2. One culture on four days
#
# `moved` compares two posteriors: the probability that a parameter is larger in a draw of the second one than in a draw
# of the first. 0.5 is no difference. With 28 parameters looked at, some lie far from 0.5 by chance, so that a
# difference is called certain only beyond 0.05 / 28, on both sides together.


# %%
def unit_draws(x: WindowedFeatures, seed: int) -> np.ndarray:
    """Draws (n, P) as quantiles of the prior."""
    return posterior.prior.to_unit(posterior(x).sample(SIZE.draws, seed=seed))


def moved(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(P,) probability that a parameter is larger in the second posterior, ties aside."""
    order = np.array([np.searchsorted(np.sort(a), b) for a, b in zip(first.T, second.T, strict=True)])
    return order.mean(1) / len(first)


def certain(p: np.ndarray) -> np.ndarray:
    """(P,) bool: beyond 0.05 over all parameters together."""
    return np.minimum(p, 1.0 - p) < 0.05 / (2 * len(p))


days = {day: unit_draws(culture(day, WELL), seed=day) for day in DAYS}
young_to_old = moved(days[DAYS[0]], days[DAYS[-1]])


# %% [markdown]
# The control: the first and the second half of the recording of one day. It is one circuit, so what differs between the
# halves is the sampling error of the recording, and what the posterior makes of it.


# %%
def half(x: WindowedFeatures, which: int) -> WindowedFeatures:
    """The features of every other window."""
    rows = zip(x.window_values[which::2], x.window_states[which::2], strict=True)
    return summarise([FeatureValues(v, s) for v, s in rows])


oldest = culture(DAYS[-1], WELL)
within = moved(unit_draws(half(oldest, 0), 1), unit_draws(half(oldest, 1), 2))
order = np.argsort(-np.abs(young_to_old - 0.5))
rows = {
    "larger on the last day": young_to_old[order], "certain": certain(young_to_old)[order],
    "control: halves of one day": within[order],
    **{f"median, day {day}": np.median(posterior.prior.from_unit(u), axis=0)[order] for day, u in days.items()},
}  # fmt: skip
pd.DataFrame(rows, index=[names[i] for i in order]).head(10).round(3)

# %%


def listed(chosen: np.ndarray) -> str:
    """How many parameters, and which."""
    return f"{chosen.sum()} of {len(names)} parameters ({', '.join(np.array(names)[chosen]) or 'none'})"


beyond = np.abs(young_to_old - 0.5) > np.abs(within - 0.5).max()
print(f"well {WELL}, day {DAYS[0]} to {DAYS[-1]}: {listed(certain(young_to_old))} differ with certainty; "
      f"{listed(beyond)} by more than any does between halves of one recording")  # fmt: skip

# %%
figure = blank(6.4, 4.4)
axes = thin(figure.subplots(), "bottom", "left")
place = np.arange(len(names))
axes.axvspan(0.05 / 56, 1 - 0.05 / 56, color="0.95", lw=0)
axes.plot(within[order], place, "|", color=GREY, label="halves of one day")
axes.plot(young_to_old[order], place, "o", ms=3, color=ACCENT, label=f"day {DAYS[0]} to {DAYS[-1]}")
axes.axvline(0.5, color=INK, lw=0.5)
axes.set(yticks=place, xlim=(-0.02, 1.02), xlabel="probability that the parameter is larger on the later day")
axes.set_yticklabels([names[i] for i in order], fontsize=6)
axes.invert_yaxis()
axes.legend(frameon=False, fontsize=7)
figure

# %% [markdown]
# ## 3. All cultures of the plate
#
# One culture rarely decides. Over many, a parameter that moves with age moves with one sign. The sign test says whether
# it does, again over all parameters together. Read it with care. It is about the posterior's answers: features of all
# cultures change alike with age, and a posterior that depends on them at all moves with them, in nearly every
# parameter, by however little. A sign says which way the answer leans, and the shift how far; neither says that the
# culture's parameter moved, as long as the posteriors of both days overlap. Wells share the plate and the posterior's
# mistakes too.

# %%
wells = sorted({row.well for row in plate()})[: SIZE.wells]
draws = {day: posterior.prior.to_unit(posterior.sample_batch([culture(day, w) for w in wells], 200, seed=9).reshape(
    -1, len(names))).reshape(len(wells), 200, -1) for day in (DAYS[0], DAYS[-1])}  # fmt: skip
shift = np.median(draws[DAYS[-1]], axis=1) - np.median(draws[DAYS[0]], axis=1)
up = (shift > 0).sum(0)
p = np.array([binomtest(int(k), len(wells)).pvalue for k in up])
order = np.argsort(p)
table = {"wells where it rises": up[order], "of": len(wells), "median shift, prior quantiles":
         np.median(shift, axis=0)[order], "sign test, times 28": np.minimum(p[order] * len(names), 1.0)}  # fmt: skip
pd.DataFrame(table, index=[names[i] for i in order]).head(10).round(4)

# %% [markdown]
# The control: for a random half of the wells the two days are swapped. No parameter should keep a sign then.

# %%
swap = np.random.default_rng(0).random((len(wells), 1)) < 0.5
swapped = np.where(swap, -shift, shift)
p_control = np.array([binomtest(int(k), len(wells)).pvalue for k in (swapped > 0).sum(0)])
moving = p * len(names) < 0.05
print(f"over {len(wells)} cultures {listed(moving)} move with one sign; with days swapped at random "
      f"{(p_control * len(names) < 0.05).sum()} do")  # fmt: skip

# %% [markdown]
# ## 4. Simulated again
#
# A difference of posteriors may be a mistake of the posterior. Configurations that reproduce the recording when they
# are simulated again cannot be. They are looked for among and around the simulations that lie nearest to each day, so
# they say what can stand behind a day, not how probable it is; what depends on which simulations there were is seen in
# the control, a second search for the first day, among the other half of them.

# %%
simulations = demo_table()
half, other = (
    MemoryTable(simulations.manifest, simulations.rows.take(np.arange(k, len(simulations.rows), 2))) for k in (0, 1)
)
SEARCHES = {f"day {DAYS[0]}": (DAYS[0], half), f"day {DAYS[0]} again": (DAYS[0], other),
            f"day {DAYS[-1]}": (DAYS[-1], half)}  # fmt: skip
ensembles = {
    title: nearby_ensemble(posterior, culture(day, WELL), among, SIZE.simulated, max_draws=SIZE.simulated, seed=1,
                           workers=2, progress=False)
    for title, (day, among) in SEARCHES.items()
}  # fmt: skip
for title, ensemble in ensembles.items():
    print(f"{title}: {ensemble.summary()}\n")

# %%
first, again, last = (posterior.prior.to_unit(e.members) for e in ensembles.values())
if min(len(first), len(again), len(last)) >= 5:
    among, control = moved(first, last), moved(first, again)
    order = np.argsort(-np.abs(among - 0.5))[:5]
    print("largest differences between verified members:", {names[i]: round(float(among[i]), 2) for i in order})
    beyond = np.abs(among - 0.5) > np.abs(control - 0.5).max()
    print(f"{listed(beyond)} differ by more than any does between two searches for one day")
else:
    print(f"{len(first)}, {len(again)} and {len(last)} verified members: too few to compare the two days by them")

# %% [markdown]
# ## 5. A human network
#
# A network of human iPSC-derived neurons on day 41 (Cotterill et al. 2016, *J Neurophysiol*), recorded with another
# array. Is it like the rat cultures of one of the days, in the parameters? `posterior.check` comes first.

# %%
if HUMAN is None:
    print("the recording of the human network is not there: this part is skipped")
else:
    human = observe(posterior, read_recording(HUMAN))
    print(posterior.check(human).summary())
    of_human = unit_draws(human, seed=41)
    for day, u in days.items():
        differs = moved(u, of_human)
        print(f"against well {WELL} on day {day}: {certain(differs).sum()} parameters differ with certainty; furthest "
              f"{names[int(np.argmax(np.abs(differs - 0.5)))]}")  # fmt: skip

# %% [markdown]
# ## What to take from this
#
# The recordings change with age beyond doubt. Which parameters do is known where section 2 says "certain" *and* section
# 3 finds one sign. When this was written, no single parameter did: the posteriors of days 9 and 23 lean apart in most
# parameters and overlap in all (benchmarks/RESULTS.md). Many configurations give the same bursts (tutorial 05), and
# differences between marginals do not see what moves together.

# %%
decided = certain(young_to_old) & moving
print(f"decided, in one culture and over the plate: {listed(decided)}")
