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
# # A circuit of your own, on every engine
#
# A circuit is a value: populations with equations in Brian2's language, wiring, inputs, and a prior over its
# parameters. Write it once; Brian2 runs it as the reference, and a kernel compiled from the same equations
# runs it some thirty times faster. This notebook writes a network with noise, cells that differ, synapses that
# tire, and delays drawn at random, checks the kernel against Brian2, and ends with a table of simulations
# that `train` can learn from.

# %%
# %matplotlib inline
import os
import tempfile
import time
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import ks_2samp

from sbi_circuits import (
    Campaign,
    Circuit,
    FeatureSet,
    FixedIndegree,
    Parameter,
    Population,
    Prior,
    Projection,
    Protocol,
    Record,
    run_campaign,
    simulate,
)
from sbi_circuits.errors import CircuitError
from sbi_circuits.plots.style import ACCENT, GREY, label

SMALL = os.environ.get("SBI_CIRCUITS_TUTORIAL_SIZE", "full") == "small"
SECONDS, DRAWS = (1.0, 6) if SMALL else (5.0, 200)

# %% [markdown]
# ## The circuit
#
# Leaky integrate-and-fire cells with a noisy drive (`xi`, Euler-Maruyama). `tau_m : second` is a quantity of each
# cell, drawn once. The synapses follow Tsodyks, Pawelzik and Markram (1998): every spike uses a share `U` of
# the resource `x`, which recovers with `tau_rec`. The delay contains `rand()`, so that every synapse draws its own.

# %%
EQUATIONS = """
dv/dt = (E_L - v + I)/tau_m + sigma*sqrt(2/tau_m)*xi : volt (unless refractory)
dI/dt = -I/tau_s : volt
tau_m : second
"""


def cells(name: str, size: str) -> Population:
    """Cells whose membrane time constants spread by 10 %."""
    return Population(
        name,
        size,
        EQUATIONS,
        threshold="v > -50*mV",
        reset="v = -60*mV",
        refractory="2*ms",
        initial={"tau_m": "20*ms*(1 + 0.1*clip(randn(), -3, 3))", "v": "E_L + 10*mV*rand()"},
        namespace={"E_L": "mu"},
    )


def synapses(source: str, target: str, number: str, weight: str) -> Projection:
    """Depressing synapses: the amount released with a spike is `U*x`."""
    return Projection(
        f"{source}2{target}",
        source,
        target,
        FixedIndegree(number),
        weight,
        equations="dx/dt = (1 - x)/tau_rec : 1 (event-driven)",
        initial={"x": "1"},
        on_spike="I_post += weight*U*x; x -= U*x",
        delay="1*ms + 2*ms*rand()",
    )


tiring = Circuit(
    name="tiring",
    title="Network with depressing synapses and noise, 5 free parameters",
    prior=Prior((
        Parameter("J", "mV", 0.5, 20.0, scale="log"),
        Parameter("g", "1", 2.0, 8.0),
        Parameter("U", "1", 0.1, 0.9),
        Parameter("tau_rec", "ms", 50.0, 1000.0, scale="log"),
        Parameter("mu", "mV", -60.0, -48.0),
    )),
    populations=(cells("exc", "N_E"), cells("inh", "N_E/4")),
    projections=(
        *(synapses("exc", target, "N_E/10", "J") for target in ("exc", "inh")),
        *(synapses("inh", target, "N_E/40", "-g*J") for target in ("exc", "inh")),
    ),
    constants={"N_E": "160" if SMALL else "800", "tau_s": "5*ms", "sigma": "3*mV"},
    dt=2e-4,
    defaults={"J": 4.0, "g": 4.0, "U": 0.5, "tau_rec": 300.0, "mu": -53.0},
)

# %% [markdown]
# ## Two engines, one circuit
#
# Noise differs between the engines (they draw other random numbers), so single spikes differ; rates and
# irregularity must not. The first run of a new circuit compiles; what is printed is the second.

# %%
RECORD = Record(spikes=-1, counts=True, moments=True)


def rates(engine: str) -> np.ndarray:
    """Rate of each cell, Hz; prints the wall time of a second run."""
    options = {"duration": SECONDS, "record": RECORD, "engine": engine}
    list(simulate(tiring, tiring.default_theta(), seed=1, **{**options, "duration": 0.05}))
    began = time.perf_counter()
    (simulation,) = simulate(tiring, tiring.default_theta(), seed=1, **options)
    print(f"{engine}: {simulation.outcome.status}, {time.perf_counter() - began:.2f} s for {SECONDS:g} s")
    moments = simulation.recording.moments
    return np.concatenate([m.spikes for m in moments.values()]) / SECONDS


found = {engine: rates(engine) for engine in ("brian2", "kernel[numba]")}
print(f"Kolmogorov-Smirnov test of the cells' rates: p = {ks_2samp(*found.values()).pvalue:.2f}")

# %%
figure, axes = plt.subplots(figsize=(4.5, 2.5))
edges = np.linspace(0, max(r.max() for r in found.values()) + 1, 25)
for (engine, values), colour in zip(found.items(), (GREY, ACCENT), strict=True):
    axes.hist(values, edges, histtype="step", color=colour, label=engine)
axes.legend(frameon=False)
label(axes, "rate of a cell (Hz)", "cells")

# %% [markdown]
# ## Mistakes are found when the circuit is made
#
# Not after an hour on a cluster, and with the reason.

# %%
for mistake in ({"weight": "J/ms"}, {"on_spike": "u_post += weight"}, {"delay": "-1*ms"}, {"delay": "0.05*ms"}):
    broken = replace(tiring.projections[0], **mistake)
    try:
        replace(tiring, projections=(broken, *tiring.projections[1:]))
    except CircuitError as error:
        print(f"{mistake}\n    {error}\n")

# %% [markdown]
# ## A table to learn from
#
# A campaign draws from the prior, simulates on the fastest engine there is, and measures features. From here
# on everything is as for the circuits that ship with the package: `train(table)`, `posterior(x)`, `ensemble`.

# %%
features = FeatureSet.of("isi", view="cells")
protocol = Protocol(duration=SECONDS, warmup=0.5, record=Record(spikes=100, counts=True, moments=True))
folder = tempfile.mkdtemp(prefix="tiring-")
table = run_campaign(Campaign(tiring, DRAWS, features, protocol, seed=1), folder, workers=1)
print(table.counts())
