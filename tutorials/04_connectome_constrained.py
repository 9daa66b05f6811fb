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
# # Circuits constrained by a connectome
#
# A wiring diagram says who is connected to whom, by how many synapses and of which sign. What it does not say, the
# strength of a synapse and the time constants and resting potentials of cells, can be shared by cell type: a network
# of 1.5 million edges keeps 734 free parameters. Lappalainen et al. (2024, Nature 634:1132) trained fifty such models
# of the fly's visual system to see motion, and found that they predict the tuning of its neurons. This notebook reads
# wiring, looks at what the models say, trains one, silences a cell type, and ends with a posterior over a few of the
# shared parameters, given tuning that was measured.

# %%
# %matplotlib inline
import os

import numpy as np
import torch

from sbi_circuits import TrainingConfig, train
from sbi_circuits.connectome import (
    Consensus,
    CurveFeatures,
    GradedCircuit,
    Models,
    MotionMovies,
    RateNetwork,
    TaskConfig,
    agreement,
    celegans,
    edge_tuning,
    fit_task,
    flash_response_index,
    flash_responses,
    flashes,
    gratings,
    moving_edges,
    published_models,
    read_wiring,
    silence,
    simulate_shared,
    split,
    visual_system,
    with_parameters,
)
from sbi_circuits.connectome.tuning import MOTION_TYPES, preferred_contrast
from sbi_circuits.errors import CircuitError
from sbi_circuits.plots import lattice_plot, marginals, prediction_plot, response_plot, task_plot, tuning_plot

SMALL = os.environ.get("SBI_CIRCUITS_TUTORIAL_SIZE", "full") == "small"
EXTENT, MODELS, SPEEDS = (3, 6, (25.0,)) if SMALL else (6, 12, (13.0, 19.0, 25.0))
STEPS, SIMULATIONS = (3, 60) if SMALL else (200, 400)
torch.set_num_threads(1)

# %% [markdown]
# ## 1. Wiring is data
#
# An edge table needs three columns. Where it is wrong, one line says in which row.

# %%
edges = {"source": ["a", "b", "c"], "target": ["b", "c", "a"], "count": [3, 1, 2], "sign": [1, 1, -1]}
nodes = {"name": ["a", "b", "c"], "type": ["E", "E", "I"]}
wiring = read_wiring(edges, nodes)
print(wiring.groups)
print(wiring.matrix())
try:
    read_wiring(edges | {"count": [3, -1, 2]}, nodes)
except CircuitError as error:
    print("refused:", error)

# %% [markdown]
# The worm, 302 neurons and the cells they drive, with gap junctions. Its neurons have graded potentials. A step of
# current into the touch neurons PLM spreads to the command interneurons and motor neurons.

# %%
worm = celegans()
print(worm.n_nodes, "cells,", worm.n_edges, "edges,", int(worm.count.sum()), "synapses")
print(len(worm.gap), "pairs of cells joined by", int(worm.gap_count.sum()), "gap junctions")
names = ("PLML", "AVAL", "VB6")
touched = GradedCircuit(worm).run({"PLML": 2.0, "PLMR": 2.0}, duration=0.2 if SMALL else 1.0, onset=0.05, record=names)
response_plot(dict(zip(names, touched.voltage[0].T, strict=True)), dt=1e-3, onset=0.05)

# %% [markdown]
# ## 2. The fly's visual system
#
# 65 cell types, nearly all of them in every column of a hexagonal lattice. `extent` says how many columns around the
# central one; the published models have 15 (721 columns), and this notebook fewer, to be quick.

# %%
fly = visual_system(EXTENT)
network = RateNetwork.of(fly)
print(fly.lattice.n_columns, "columns,", fly.wiring.n_nodes, "cells,", fly.wiring.n_edges, "edges")
print(fly.n_parameters, "free parameters")
edge = moving_edges(fly.lattice, speed=19.0, angles=[0, 90], intensities=[1.0])
drift = gratings(fly.lattice, period=30.0, angles=[45])
lattice_plot(
    fly.lattice,
    {
        "flash": flashes(fly.lattice, radius=2).movie[1, 0],
        "edge, to the right": edge.movie[0, edge.movie.shape[1] // 2],
        "edge, upwards": edge.movie[1, edge.movie.shape[1] // 2],
        "grating": drift.movie[0, 0],
    },
)

# %% [markdown]
# ## 3. What trained models say
#
# The published models, best first. An edge that moves upwards excites T4c, whose preferred direction that is.

# %%
models = published_models().take(slice(MODELS))
central = fly.wiring.central()
cells = {name: central[fly.wiring.type_index(name)] for name in ("Mi1", "T4c", "T4d")}
seen = network.respond(models, edge.movie, edge.dt, cells=np.array(list(cells.values())))
response_plot({name: seen[:, 1, :, k] for k, name in enumerate(cells)}, edge.dt)

# %% [markdown]
# A snapshot of all T4c cells of one model, as the edge passes:

# %%
everywhere = network.respond(models.take([0]), edge.movie, edge.dt, cells=fly.wiring.cells("T4c"))[0, 1]
frames = [round(share * (len(everywhere) - 1)) for share in (0.2, 0.5, 0.8)]
top = float(everywhere.max())
lattice_plot(fly.lattice, {f"{1e3 * t * edge.dt:.0f} ms": everywhere[t] for t in frames}, 0.0, top, "viridis")

# %% [markdown]
# ## 4. Against what is known
#
# Polarity of 32 cell types, direction selectivity of 18, and the tuning curves of T4 and T5 (Maisak et al. 2013) were
# not used in training. The control has the same cells, synapse counts and signs, but every source type is exchanged
# for another one.


# %%
def read_out(net: RateNetwork) -> tuple:
    index = flash_response_index(flash_responses(net, models, fly.lattice))
    return index, edge_tuning(net, models, fly.lattice, SPEEDS)


index, tuning = read_out(network)
found = agreement(fly.wiring.cell_types, index, tuning)
shuffled = agreement(fly.wiring.cell_types, *read_out(RateNetwork.of(fly, fly.wiring.shuffled(0, "types"))))
for name, result in (("connectome", found), ("shuffled", shuffled)):
    flash, selectivity, curves = (np.median(a) for a in (result.flash, result.selectivity, result.curves))
    print(f"{name}: flash index {flash:.2f}, direction selectivity {selectivity:.2f}, tuning curves {curves:.2f}, "
          f"{int(result.diverged.sum())} of {MODELS} diverged")  # fmt: skip
tuning_plot(fly.wiring.cell_types, tuning)

# %%
flash = Consensus(fly.wiring.cell_types, index)
print("all models agree on the polarity of:", ", ".join(flash.agreed(1.0)))
prediction_plot(flash)

# %% [markdown]
# Where models disagree, they may fall into groups. Each is a hypothesis about the cell type that an experiment could
# tell apart. The p-value says how often one cloud without groups would divide as well.

# %%
for name in MOTION_TYPES[:4]:
    curves = tuning.curves()[:, fly.wiring.type_index(name), preferred_contrast(name)]
    groups = split(curves)
    print(f"{name}: {np.bincount(groups.labels).tolist()} models in each group, p {groups.p_value:.2f}")

# %% [markdown]
# ## 5. Silencing
#
# Cutting all synapses from a type is a prediction for an experiment. It comes with its spread over the models.


# %%
def polarity(chosen: Models) -> np.ndarray:
    return flash_response_index(flash_responses(network, chosen, fly.lattice, dt=0.01))


without = silence(models, "L3", polarity, fly.wiring.cell_types)
print(without.change.table(without.largest(5)))

# %% [markdown]
# ## 6. Training on a task
#
# Textures with the statistics of natural images move, turn and expand; a decoder reads their flow from the network's
# output types; gradients go through both. The published models took 250,000 steps. A few hundred are enough to begin
# to see motion; given a folder, `fit_task` goes on where it was interrupted.

# %%
movie, flow = MotionMovies().draw(fly.lattice, 1, 0, "a look")
right, up = 0.5 + flow[0] / 24
lattice_plot(fly.lattice, {"texture": movie[0, 5], "flow to the right": right, "and up": up})

# %%
small = visual_system(2 if SMALL else 4)
fit = fit_task(small, TaskConfig(models=1, steps=STEPS, batch=4 if SMALL else 16, validation=16), progress=False)
print(fit.summary())
task_plot(fit)

# %% [markdown]
# ## 7. A posterior over shared parameters
#
# The bridge to simulation-based inference: which strengths of T4c's inputs, and which resting potential, give the
# tuning that was measured? Those parameters are drawn from a prior, all others from the trained models, so that what
# the others leave open widens the posterior. From there on everything works as for any circuit.

# %%
chosen = ("strength.Mi1->T4c", "strength.Mi9->T4c", "strength.Mi4->T4c", "rest.T4c")
features = CurveFeatures(("T4c",))
eye = visual_system(3)
table = simulate_shared(RateNetwork.of(eye), eye.lattice, models, chosen, features, SIMULATIONS, seed=0)
config = TrainingConfig(members=1, epochs=2, hidden=16) if SMALL else None
posterior = train(table, config, progress=False, seed=0)
print(posterior.log[-1])
observed = features.known()
print(posterior.check(observed).summary())
marginals(posterior(observed).sample(1000, seed=0), table.prior)

# %% [markdown]
# Simulated again: configurations from the posterior against the measured curve.

# %%
draws = posterior(observed).sample(20, seed=1)
values, _, _ = features.measure(RateNetwork.of(eye), eye.lattice, with_parameters(models, chosen, draws))
known = np.array([observed[name] for name in features.names[:12]])
away = abs(values[:, :12] - known).mean(1)
prior_away = abs(np.asarray(table.values)[:, :12] - known).mean(1)
print(f"mean distance to the measured curve: {np.median(away):.2f} (posterior), {np.median(prior_away):.2f} (prior)")
