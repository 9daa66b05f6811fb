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
# # Trust your posterior
#
# A posterior always answers. Whether the answer deserves belief is a question of its own, and it has an answer too:
# simulate configurations that the posterior has not seen, ask it about their recordings, and count how often it was
# right. This notebook does so for a small circuit, with the whole set of tests that the toolkit has:
#
# - **SBC and coverage**: are intervals as wide as they should be, parameter by parameter?
# - **TARP**: and all parameters together?
# - **patterns and subsets**: also where features are undefined, or were not measured?
# - **L-C2ST**: also around *this* observation?
# - **recalibration**: what to do where not;
# - **reach and posterior predictive checks**: could the circuit have produced the recording at all?
# - **model comparison**: or is it another circuit?
# - **repeated recordings**: what many of them say together.
#
# At full size it takes some minutes on two cores; with the environment variable
# `SBI_CIRCUITS_TUTORIAL_SIZE=small` it shows that every step runs, and its figures then mean little.

# %%
# %matplotlib inline
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

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
from sbi_circuits.calibration import (
    Correction,
    HeldOut,
    LocalTest,
    ReachTest,
    Recalibrated,
    calibrate,
    predictive_of,
    recalibrate,
)
from sbi_circuits.comparison import ClassifierConfig, compare_circuits
from sbi_circuits.estimators import LikelihoodConfig, train_estimator


# %%
@dataclass(frozen=True)
class Size:
    """Simulations to train on, to judge by, and of the other circuit; their length; and how to train."""

    rows: int
    fresh: int
    other: int
    duration: float
    draws: int
    resimulated: int
    workers: int
    config: TrainingConfig | None
    classifier: ClassifierConfig | None
    likelihood: LikelihoodConfig | None
    particles: int


QUICK = TrainingConfig(transform="coupling", members=1, hidden=24, layers=1, epochs=4)
SIZES = {
    "small": Size(240, 160, 200, 2.0, 60, 12, 1, QUICK, ClassifierConfig(members=2, hidden=16, epochs=3),
                  LikelihoodConfig(members=1, hidden=16, epochs=20), 100),  # fmt: skip
    "full": Size(4000, 900, 1500, 5.0, 400, 60, os.cpu_count() or 1, None, None, None, 600),
}
SIZE = SIZES[os.environ.get("SBI_CIRCUITS_TUTORIAL_SIZE", "full")]
SEED = 0
OUT = Path("output") / "trust"
pd.options.display.width = 150

# %% [markdown]
# ## 1. A circuit, a table to learn from, a table to judge by
#
# The circuit is a small balanced network with four free parameters. A variant of it, with spike-triggered
# adaptation, will play the unknown truth later.


# %%
def network(name, title, equations, reset, extra=()):
    """Excitatory and inhibitory cells, sparse connections, Poisson input."""

    def cells(group, size):
        initial = {"v": "v_rest + 15*mV*rand()"}
        return Population(group, size, equations, "v > -50*mV", reset, refractory="2*ms", initial=initial)

    def synapses(source, target, number, weight):
        effect = "I_post += weight"
        return Projection(f"{source}2{target}", source, target, FixedIndegree(number), weight, effect, delay="1.5*ms")

    return Circuit(
        name=name,
        title=title,
        prior=Prior(
            (
                Parameter("J", "mV", 0.2, 5.0, scale="log"),
                Parameter("g", "1", 2.0, 8.0),
                Parameter("tau_m", "ms", 5.0, 40.0),
                Parameter("rate", "Hz", 5.0, 100.0),
                *extra,
            )
        ),
        populations=(cells("exc", "160"), cells("inh", "40")),
        projections=(
            *(synapses("exc", target, "16", "J") for target in ("exc", "inh")),
            *(synapses("inh", target, "4", "-g*J") for target in ("exc", "inh")),
        ),
        inputs=tuple(PoissonInput(target, "I", "100", "rate", "J") for target in ("exc", "inh")),
        constants={"v_rest": "-65*mV", "tau_s": "5*ms"},
        defaults={"J": 1.0, "g": 5.0, "tau_m": 20.0, "rate": 40.0, **{p.name: 5.0 for p in extra}},
    )


plain = register(
    network(
        "trust_plain",
        "Small balanced network",
        "dv/dt = (v_rest - v + I)/tau_m : volt (unless refractory)\ndI/dt = -I/tau_s : volt",
        "v = v_rest",
    )
)
adapting = register(
    network(
        "trust_adapting",
        "The same with spike-triggered adaptation",
        "dv/dt = (v_rest - v + I - w)/tau_m : volt (unless refractory)\ndI/dt = -I/tau_s : volt\n"
        "dw/dt = -w/(200*ms) : volt",
        "v = v_rest; w += b",
        extra=(Parameter("b", "mV", 1.0, 20.0, scale="log"),),
    )
)
FEATURES = FeatureSet.of("isi", "bursts", spectrum={"low": 2.0, "high": 60.0, "step": 2.0})
PROTOCOL = Protocol(duration=SIZE.duration, warmup=0.2, record=Record(spikes=50, moments=True))


def table_of(circuit, n, seed):
    """A table of n draws of the prior."""
    campaign = Campaign(circuit, n, FEATURES, PROTOCOL, seed=seed)
    return run_campaign(campaign, OUT / f"{circuit.name}-{n}-{seed}", workers=SIZE.workers, progress=False)


table, fresh = table_of(plain, SIZE.rows, SEED), table_of(plain, SIZE.fresh, SEED + 1)
print(f"to learn from: {table.counts()}\nto judge by:   {fresh.counts()}")

# %% [markdown]
# The second table has another seed: no simulation in it was trained on. (Rows of the training table would flatter the
# posterior; `sbi-circuits calibrate` refuses them.)

# %%
posterior = train(table, SIZE.config, progress=False, seed=SEED)
held = HeldOut.from_table(fresh)
print(posterior.log[-1])

# %% [markdown]
# ## 2. Is it as sure as it should be?
#
# For every held-out simulation we know the configuration that made it. Its **rank** among draws from the posterior is
# uniform if the posterior is exact: it is as often the smallest as the largest or in the middle (simulation-based
# calibration, Talts et al. 2018). An interval then holds what it promises: the central 90 % hold the truth in 90 % of
# the cases (**coverage**). **TARP** (Lemos et al. 2023) asks the same of regions of all parameters together.
#
# `calibrate` does all of it. Each line says what was found; the verdict counts all tests together, so that an exact
# posterior passes with 95 % probability.

# %%
SUBSETS = {"intervals": ["isi"], "bursts and spectrum": ["bursts", "spectrum"]}
found = calibrate(posterior, held, draws=SIZE.draws, subsets=SUBSETS, seed=SEED)
print(found.summary())

# %% [markdown]
# The difference between the distribution of the ranks and the uniform one: curves of an exact posterior stay within
# the grey band, all along, with 95 % probability each. Too narrow a posterior rises first and then falls, too wide a
# one the reverse; a shifted one stays on one side.

# %%
plots.rank_plot(found)

# %%
plots.tarp_plot(found.tarp)

# %% [markdown]
# ## 3. Undefined and unobserved features
#
# An average can hide a lot. Where a simulation has no bursts, the features of bursts are *undefined*, which the
# posterior takes as information; where an experiment measured no spectrum, it is *unobserved*, and one network answers
# for every subset. Both have to be calibrated on their own.

# %%
plots.pattern_plot(found)

# %% [markdown]
# What a subset costs is seen in the widths. Of one held-out simulation, the same posterior given everything, and given
# parts of it:

# %%
chosen = 0
widths = {}
for title, names in {"everything": ["isi", "bursts", "spectrum"], **SUBSETS}.items():
    part = held.only(names).take(slice(chosen, chosen + 1))
    theta = posterior((part.values[0], part.states[0])).sample(1000, SEED)
    low, high = np.quantile(posterior.prior.to_unit(theta), [0.05, 0.95], axis=0)
    widths[title] = (high - low) / 0.9
print("width of the central 90 %, as a share of the prior's\n")
print(pd.DataFrame(widths, index=posterior.prior.names).round(2).to_string())

# %% [markdown]
# ## 4. And around this observation?
#
# A posterior can be right on average and wrong here. **L-C2ST** (Linhart et al. 2023) trains a classifier to tell the
# true configurations of held-out simulations from draws of their posteriors. Where it succeeds, for the observation at
# hand, the posterior is wrong there. The p-value comes from classifiers trained on permuted labels.

# %%
local = LocalTest.fit(posterior, held, seed=SEED)
x = (held.values[chosen], held.states[chosen])
print(f"everywhere: p {local.everywhere.p_value:.2g}\nhere: {local.check(x).summary()}")

# %%
plots.local_plot(local.check(x))

# %% [markdown]
# ## 5. What failure looks like, and what mends it
#
# To see the tests fail, we make the posterior too sure of itself on purpose: every draw is moved to 60 % of its
# distance from the posterior mean.

# %%
names = posterior.prior.names
squeezed = Correction(names, (0.0,) * len(names), (0.6,) * len(names), 0, (0.0, 0.0), (0.0, 0.0), 1.0, 1.0)
overconfident = Recalibrated(posterior, squeezed)
wrong = calibrate(overconfident, held, draws=SIZE.draws, local=False, seed=SEED)
print("\n".join(wrong.lines()[:3]))

# %%
plots.rank_plot(wrong)

# %% [markdown]
# `recalibrate` looks for one shift and one scale for each parameter that make the ranks uniform, and reports what those
# of each half of the held-out simulations do to the other half. It is a bijection, so densities stay exact, and no draw
# leaves the prior. It mends what is wrong in the same way everywhere, which is the usual case; what is too wide
# here and too narrow there it cannot mend (more simulations can).

# %%
mended = recalibrate(overconfident, held, draws=SIZE.draws, seed=SEED)
print(mended.correction.summary())

# %% [markdown]
# On the command line, `sbi-circuits calibrate POSTERIOR --table FRESH --recalibrate` does the same and leaves the
# correction beside the posterior, where `infer` finds it.
#
# ## 6. Could the circuit have produced the recording?
#
# Calibration is a promise about recordings *of this circuit*. Three recordings: one of the circuit itself, one of the
# circuit with a parameter far outside its prior, and one of the other circuit.


# %%
def record(circuit, theta, seed):
    """The recording of one configuration."""
    (simulation,) = simulate(circuit, np.array(theta), 4 * SIZE.duration, seed=seed, record=PROTOCOL.record)
    return simulation.recording


wider = replace(
    plain, prior=Prior(tuple(replace(p, high=400.0) if p.name == "rate" else p for p in plain.prior.parameters))
)
recordings = {
    "of the circuit": record(plain, [1.0, 5.0, 20.0, 40.0], 11),
    "input far outside the prior": record(wider, [4.0, 2.0, 6.0, 350.0], 12),
    "of the other circuit": record(adapting, [2.0, 3.0, 20.0, 60.0, 15.0], 13),
}
seen = {name: FEATURES.measure_windows(r, SIZE.duration) for name, r in recordings.items()}

# %% [markdown]
# `posterior.check` is the quick answer, from what every posterior carries with it. `ReachTest` compares with
# simulations that were kept aside, by three scores of oddness (Mahalanobis distance, distance to the nearest
# simulations, density), and gives a p-value that holds whatever the scores are. It names the features that are oddest
# given the others.

# %%
reach = ReachTest.fit(held, SEED)
for name, observation in seen.items():
    print(f"{name}:\n  {posterior.check(observation).summary()}\n  {reach.check(observation).summary()}")

# %%
plots.reach_plot(reach, seen["of the other circuit"])

# %% [markdown]
# A recording that passes may still not be reproduced. The **posterior predictive check** simulates draws of the
# posterior again, all of them, and asks where the recording lies among them. Its p-values are cautious, because the
# recording was used twice: a small one is evidence, a large one is none.

# %%
options = {"seed": SEED, "workers": SIZE.workers, "progress": False, "max_draws": SIZE.resimulated}
predictive = {}
for name in ("of the circuit", "of the other circuit"):
    ensemble = posterior.ensemble(seen[name], SIZE.resimulated, **options)
    predictive[name] = predictive_of(ensemble)
    print(f"{name}: {predictive[name].summary()}")

# %%
plots.predictive_plot(predictive["of the other circuit"])

# %% [markdown]
# ## 7. Which circuit?
#
# With a table for each circuit, measured alike, a classifier learns the probability of each circuit given the features:
# the ratio of their evidences, with the integral over each prior done by simulation. It is calibrated on rows kept
# aside, and judged on others: of the cases it calls 70 %, 70 % should be right.

# %%
classifier = compare_circuits([table, table_of(adapting, SIZE.other, SEED)], SIZE.classifier, seed=SEED)
print(classifier.reliability.summary())

# %%
plots.reliability_plot(classifier.reliability)

# %%
for name, observation in seen.items():
    print(f"{name}:\n  " + classifier(observation).summary().replace("\n", "\n  "))

# %%
plots.probability_plot(classifier(seen["of the other circuit"]))

# %% [markdown]
# The probabilities are relative: a recording that no circuit reaches gets some too, and the summary says so.
#
# ## 8. Many recordings of one preparation
#
# Ten recordings of one network know more than one. A neural **likelihood** of the features, trained on the same table,
# multiplies over recordings; sequential Monte Carlo then draws from the posterior of all of them together, behind the
# same `posterior(x)`, where x may be a list. (`combine` does the same with the posterior trained above, at the price
# that errors multiply.)

# %%
likelihood = replace(train_estimator(table, "likelihood", SIZE.likelihood, seed=SEED), particles=SIZE.particles)
print("\n".join(likelihood.log))
truth = np.array([1.0, 5.0, 20.0, 40.0])
trials = [
    FEATURES.measure(s.recording)
    for s in simulate(plain, np.tile(truth, (10, 1)), SIZE.duration, seed=21, warmup=0.2, record=PROTOCOL.record)
]
together = {}
for m in (1, 3, 10):
    theta = likelihood(trials[:m]).sample(SIZE.particles, SEED)
    low, high = np.quantile(theta, [0.05, 0.95], axis=0)
    together[f"{m} recordings"] = [f"[{a:.2f}, {b:.2f}]" for a, b in zip(low, high, strict=True)]
print("central 90 % of each parameter\n")
print(pd.DataFrame({"truth": truth, **together}, index=plain.prior.names).to_string())

# %% [markdown]
# The repetitions differ in their seed: in the wiring as well as in the input. A preparation has one wiring, so this
# stands for ten cultures grown alike rather than ten recordings of one culture.
#
# ## 9. What to trust
#
# - **Passing is not a proof.** With few held-out simulations only large faults are seen. The bands and standard errors
#   say how large.
# - **Failing is information.** Too narrow: simulate more, or use more members. Wrong in one pattern or subset: look
#   there. Wrong everywhere in the same way: recalibrate. Too wide for one recording: `infer --refine --rounds 5`.
# - **Hundreds of features** (a spectrum, `counts`) are read as a few numbers; the training log says which.
# - **In reach comes first.** No test on simulations says anything about a recording that the circuit cannot produce.
# - **The comparison knows only the circuits it was given**, and their priors: a circuit with a wide prior has to spread
#   its evidence.
#
# Sources: Talts et al. 2018, arXiv:1804.06788; Lemos et al. 2023, arXiv:2302.03026; Linhart et al. 2023,
# arXiv:2306.03580; Radev et al. 2021, arXiv:2004.10629.
