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
# # Rate circuits and fields
#
# Population and rate models describe what an electrode far from any single cell sees: rhythms, their frequency,
# the slope of the spectrum. They are circuits like all others here, without thresholds; what can be recorded are
# named signals, each with what it assumes. Three engines run them: Brian2, `kernel[numba]` with many parameter
# sets side by side in vector lanes, and `torch`, which gives gradients.
#
# With the environment variable `SBI_CIRCUITS_TUTORIAL_SIZE=small` every step runs quickly, and the figures mean little.

# %%
# %matplotlib inline
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from sbi_circuits import (
    Campaign,
    FeatureSet,
    Protocol,
    Record,
    TrainingConfig,
    get_circuit,
    get_engine,
    observe,
    run_campaign,
    simulate,
    train,
    with_lfp,
)
from sbi_circuits.engines.torch_engine import TorchEngine
from sbi_circuits.features.field import Field
from sbi_circuits.features.field_spectrum import fit_spectrum, power_spectrum
from sbi_circuits.gradients.refine import Target, refine
from sbi_circuits.gradients.smooth import smooth_names
from sbi_circuits.plots import field_spectrum_plot, signal_plot
from sbi_circuits.plots.style import ACCENT, GREY, label
from sbi_circuits.recording import Recording, Signal

SMALL = os.environ.get("SBI_CIRCUITS_TUTORIAL_SIZE", "full") == "small"
ROWS, DRAWS, MEMBERS, STEPS, SECONDS = (60, 40, 2, 2, 0.5) if SMALL else (4000, 400, 12, 12, 1.5)
CONFIG = TrainingConfig(members=1, hidden=16, width=16, epochs=4) if SMALL else None
places = [p / "shared/data/fields" for p in (Path.cwd(), *Path.cwd().parents)]
FIELDS = next((p for p in places if p.is_dir()), None)

# %% [markdown]
# ## 1. Signals
#
# `sbi-circuits describe jansen_rit` lists them. The Jansen-Rit column stands for pyramidal cells and two kinds of
# interneurons; its field is the pyramidal cells' potential.

# %%
column = get_circuit("jansen_rit")
for readout in column.readouts:
    print(f"{readout.name} ({readout.unit}): {readout.title}")
record = Record(counts=False, signals=("field", "rate"))
(simulation,) = simulate(column, column.default_theta(), 4.0, seed=1, warmup=1.0, record=record)
signal_plot(simulation.recording, window=(2.0, 4.0))

# %%
field_spectrum_plot(simulation.recording, "field", high=60)

# %% [markdown]
# ## 2. Where the rhythm begins and ends
#
# Lanes of a vector hold different parameter sets, so that a hundred values of the input take a second. The rhythm
# lives between the two Hopf bifurcations that Grimbert and Faugeras (2006) computed, at 89.83 and 315.70 per second.

# %%
inputs = np.linspace(0, 450, 8 if SMALL else 128)
theta = np.tile(column.default_theta(), (len(inputs), 1))
theta[:, column.prior.names.index("p")] = inputs
theta[:, column.prior.names.index("sigma")] = 0.0
quiet = Record(counts=False, signals=("field",))
runs = list(simulate(column, theta, 1.0, warmup=1.0 if SMALL else 10.0, record=quiet, engine="kernel[numba]"))
field = [r.recording.signals["field"].values for r in runs]
extremes = np.array([[v.min(), v.max()] for v in field])
fig, ax = plt.subplots(figsize=(5, 2.4), layout="constrained")
ax.plot(inputs, extremes, color=ACCENT, lw=1)
for published in (89.83, 315.70):
    ax.axvline(published, color=GREY, lw=0.6, ls="--")
label(ax, "input p (1/s)", "field, smallest and largest (mV)")

# %% [markdown]
# ## 3. A recorded field
#
# Features of a field: band powers, the aperiodic exponent, the highest peak, cycle by cycle statistics, and how two
# channels go together. Here of the hippocampus of a rat, if the recording is at hand: theta at 8 Hz.

# %%
families = FeatureSet.of("oscillation", field={"low": 2, "high": 60}, pair={})
if FIELDS is not None:
    content = np.load(FIELDS / "rat_ca1_ec3_lfp.npz", allow_pickle=False)
    rate = float(content["fs"])
    lfp = Recording(0.0, 60.0, signals={"lfp": Signal(content["lfp"].astype(float), rate, "1")})
    measured = families.measure(lfp)
    for name in ("field.exponent", "field.peak_frequency", "oscillation.period_mean", "oscillation.rise_share",
                 "pair.coherence_theta"):  # fmt: skip
        print(f"{name}: {measured.values[families.names.index(name)]:.3g}")

# %% [markdown]
# ## 4. Inference on a field
#
# Ongoing activity of human somatosensory cortex, 700 trials of one second (source signal of
# magnetoencephalography, with no unit), or a simulation where it is not at hand. The scale of such a signal is
# arbitrary, so band powers are relative. Simulations last as long as a trial, and are sampled alike.

# %%
protocol = Protocol(1.0, 1.0, Record(counts=False, signals=("field",), signal_rate=600.0), dt=1 / 1200)
features = FeatureSet.of(field={"low": 2, "high": 50, "relative": True})
engine = get_engine("kernel[numba]")
with tempfile.TemporaryDirectory() as folder:
    campaign = Campaign(column, ROWS, features, protocol, seed=0, engine="kernel[numba]")
    posterior = train(run_campaign(campaign, Path(folder) / "table", progress=False), config=CONFIG, seed=0)

# %%
if FIELDS is not None:
    content = np.load(FIELDS / "human_meg_s1_ongoing_trials0-699.npz", allow_pickle=False)
    trials = content["signal"].astype(float)
    recording = Recording(0.0, float(len(trials)), signals={"field": Signal(trials.reshape(1, -1), 600.0, "1")})
else:
    recording = engine.run(column, column.default_theta(), replace(protocol, duration=20.0), 5, 0).recording
x = observe(posterior, recording)
print(posterior.check(x).summary())
draws = posterior(x).sample(DRAWS, seed=0)
for k, p in enumerate(column.prior.parameters):
    low, middle, high = np.quantile(draws[:, k], [0.05, 0.5, 0.95])
    print(f"{p.name}: {middle:.3g} {p.unit}, 90 % between {low:.3g} and {high:.3g} (prior {p.low:g} to {p.high:g})")

# %% [markdown]
# The draws are simulated again: do their spectra look like the recording's? A spectrum of one second is noisy; the
# recording's is the mean of 700.

# %%
number = 3 if SMALL else 60
again = engine.run_batch(column, draws[:number], protocol, 9, range(number))
fig, ax = plt.subplots(figsize=(4, 3), layout="constrained")
for run in again:
    if run.recording is not None:
        frequency, power = power_spectrum(run.recording.signals["field"].values[0], 600.0, 1.0)
        ax.loglog(frequency[2:51], power[2:51] / power[2:51].sum(), color=GREY, lw=0.4)
frequency, power = power_spectrum(recording.signals["field"].values[0], 600.0, 1.0)
ax.loglog(frequency[2:51], power[2:51] / power[2:51].sum(), color=ACCENT, lw=1.5)
label(ax, "frequency (Hz)", "share of the power")
fit = fit_spectrum(frequency[2:51], power[2:51])
print(f"recording: exponent {fit.exponent:.2f}, peaks at {', '.join(f'{p.frequency:.1f}' for p in fit.peaks)} Hz")

# %% [markdown]
# ## 5. Gradients
#
# The engine `torch` differentiates signals, and with them features, by the parameters. `refine` uses that: it pulls
# configurations onto an observation, and simulates the result with other seeds. It gives configurations near the
# observation, not a sample of the posterior.

# %%
names = smooth_names(Field(low=2, high=50, relative=True))
scale = np.where(np.isin(names, ("centre", "bandwidth")), 3.0, 0.3)
columns = [features.names.index(f"field.{n}") for n in names]
target = Target(names, np.asarray(x.values)[columns], scale, Field(low=2, high=50, relative=True))
short = Protocol(SECONDS + 0.5, 0.5, protocol.record, dt=1 / 600)
found = refine(column, draws[:MEMBERS], target, short, seed=2, steps=STEPS, engine=TorchEngine("double", "cpu"))
print(found.summary())

# %%
theta = torch.tensor(column.default_theta()[None], requires_grad=True)
signals = TorchEngine("double", "cpu").signals(column, theta, short, 0, [0], segment=50)
signals["field"].std().backward()
for p, slope in zip(column.prior.parameters, theta.grad[0], strict=True):
    print(f"d (standard deviation of the field) / d {p.name}: {float(slope):.3g} mV per {p.unit}")

# %% [markdown]
# `gradient_proposal` (in `sbi_circuits.gradients`) goes one step further: the next round of simulations is drawn from
# normals around refined configurations, as wide as their gradients say, with exact importance weights.
# `benchmarks/RESULTS.md` says what a round of them is worth beside one of plain draws.
#
# ## 6. The field of a network that spikes
#
# `with_lfp` adds a proxy: the synaptic currents of excitatory cells, AMPA 6 ms before less 1.65 GABA, summed while the
# kernel runs (Mazzoni et al. 2015). It assumes that these currents make the field, and that all cells add alike.

# %%
network = with_lfp(get_circuit("adex_clustered"))
kept = Record(spikes=100, signals=("lfp", "ampa", "gaba"))
(spiking,) = simulate(network, network.default_theta(), 1.2 if SMALL else 10.0, seed=1, warmup=0.3, record=kept)
signal_plot(spiking.recording, window=(0.3, 1.3))

# %%
field_spectrum_plot(spiking.recording, "lfp", high=100)
