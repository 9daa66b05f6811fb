"""Circuits constrained by a connectome: wiring as data, shared parameters, networks trained on a task."""

from sbi_circuits.connectome.celegans import GradedCircuit, GradedConstants, celegans, read_celegans
from sbi_circuits.connectome.fly import VisualSystem, published_models, read_lattice_wiring, visual_system
from sbi_circuits.connectome.hypotheses import Consensus, Silencing, Split, silence, split
from sbi_circuits.connectome.lattice import Lattice, LatticePair, LatticeWiring
from sbi_circuits.connectome.models import Models, initial_models, load_models, save_models, shared_prior
from sbi_circuits.connectome.motion import MotionMovies
from sbi_circuits.connectome.network import RateNetwork, TrainableModels
from sbi_circuits.connectome.readouts import EdgeTuning, edge_tuning, flash_response_index, flash_responses
from sbi_circuits.connectome.shared_inference import CurveFeatures, simulate_shared, with_parameters
from sbi_circuits.connectome.stimuli import Stimuli, dots, flashes, gratings, moving_bars, moving_edges
from sbi_circuits.connectome.tables import from_matrix, read_wiring
from sbi_circuits.connectome.task import TaskConfig, TaskFit, fit_task
from sbi_circuits.connectome.tuning import Agreement, agreement
from sbi_circuits.connectome.wiring import Wiring

__all__ = [
    "Agreement", "Consensus", "CurveFeatures", "EdgeTuning", "GradedCircuit", "GradedConstants", "Lattice",
    "LatticePair", "LatticeWiring", "Models", "MotionMovies", "RateNetwork", "Silencing", "Split", "Stimuli",
    "TaskConfig", "TaskFit", "TrainableModels", "VisualSystem", "Wiring", "agreement", "celegans", "dots",
    "edge_tuning", "fit_task", "flash_response_index", "flash_responses", "flashes", "from_matrix", "gratings",
    "initial_models", "load_models", "moving_bars", "moving_edges", "published_models", "read_celegans",
    "read_lattice_wiring", "read_wiring", "save_models", "shared_prior", "silence", "simulate_shared", "split",
    "visual_system", "with_parameters",
]  # fmt: skip
