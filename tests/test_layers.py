"""The shape of the source, read with `ast`: layer order, file length, no code executed from data."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "sbi_circuits"
ORDER = (
    "data", "errors", "digests", "tree_files", "units", "seeds", "regression", "prior", "circuit", "recording",
    "readers", "engines", "simulation", "features", "cultures", "observation_file", "table", "campaign", "inference",
    "verification", "ensemble", "nearby", "aimed_round", "results", "calibration", "comparison", "estimators",
    "gradients", "subspace", "connectome", "plots", "report", "demo", "cli",
)  # fmt: skip
PARTS = {  # modules that one layer is split into
    "circuit_checks": "circuit", "circuit_composites": "circuit", "circuit_fields": "circuit",
    "circuit_gaps": "circuit", "circuit_parts": "circuit", "circuit_quantities": "circuit",
    "circuit_stimuli": "circuit", "circuit_values": "circuit", "cli_calibrate": "cli", "cli_campaign": "cli",
    "cli_circuits": "cli", "cli_connectome": "cli", "cli_features": "cli", "cli_infer": "cli",
    "cli_simulate": "cli", "cli_subspace": "cli", "cli_table": "cli",
    "nearby_aimed": "nearby", "nearby_choice": "nearby", "nearby_families": "nearby", "nearby_kernels": "nearby",
    "nearby_known": "nearby", "projection_checks": "circuit",
    "recording_concerns": "recording", "report_page": "report",
    "table_compact": "table", "table_digest": "table", "table_export": "table", "table_files": "table",
    "table_info": "table", "table_parts": "table", "table_recordings": "table", "table_rows": "table",
    "verification_spread": "verification", "wiring_rules": "circuit",
}  # fmt: skip
ZOO = ("simulators", "priors")
COMPOSITION = ("__init__", "__main__")  # stand above every layer
MAX_LINES = 400
UNSAFE = {
    f"{module}.{name}"
    for module in ("pickle", "_pickle", "cloudpickle", "dill", "joblib", "torch")
    for name in ("load", "loads", "Unpickler")
} | {"eval", "exec", "builtins.eval", "builtins.exec"}


def sources(root: Path, *folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def imports(path: Path, root: Path) -> Iterator[tuple[int, str, str]]:
    """(line, module, name) of every import in a file, made absolute; name is empty for `import module`."""
    package = (PACKAGE, *path.relative_to(root / PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            yield from ((node.lineno, module, alias.name) for alias in node.names)


def layer(module: str) -> str:
    return PARTS.get(module, module)


def fault(own: str, module: str, name: str) -> str | None:
    """What is wrong with layer `own` importing `name` from `module`, if anything."""
    parts = [*module.split("."), *filter(None, [name])]
    if parts[0] in ZOO or (parts[0] == PACKAGE and parts[1:2] and parts[1] in ZOO):
        return f"imports {'.'.join(parts)}: the zoo is loaded by entry point only"
    if parts[0] != PACKAGE or own in COMPOSITION:
        return None
    target = layer(parts[1]) if len(parts) > 1 else ""
    if target == "__version__":
        return None
    if target not in ORDER:
        return f"imports {'.'.join(parts)}: name the module it is defined in ({', '.join(ORDER)})"
    if ORDER.index(target) > ORDER.index(own):
        return f"layer {own!r} imports {target!r}, which comes later"
    return None


def layer_faults(root: Path) -> list[str]:
    """Every import in `root/sbi_circuits` that breaks the layer order, as `file:line: what`."""
    faults = []
    for path in sources(root, PACKAGE):
        relative = path.relative_to(root)
        own = layer(path.relative_to(root / PACKAGE).parts[0].removesuffix(".py"))
        if own not in (*ORDER, *COMPOSITION):
            faults.append(f"{relative}:1: {own!r} belongs to no layer; give it its place in ORDER or PARTS")
            continue
        found = ((line, fault(own, module, name)) for line, module, name in imports(path, root))
        faults += [f"{relative}:{line}: {what}" for line, what in found if what]
    return faults


def unsafe_faults(path: Path) -> list[str]:
    """Every use in a file of a name in UNSAFE, or of `allow_pickle=True`, as `file:line: what`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    faults = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)):
            head, _, rest = ast.unparse(node).partition(".")
            used = ".".join(filter(None, [known.get(head, head), rest]))
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            used = f"allow_pickle={ast.unparse(node.value)}"
        else:
            continue
        if used in UNSAFE or (used.startswith("allow_pickle=") and used != "allow_pickle=False"):
            faults.append(f"{path.name}:{node.lineno}: {used}")
    return faults


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_imports_point_up_the_layer_list() -> None:
    assert layer_faults(ROOT) == []


def test_storage_stands_above_execution_and_strategy() -> None:
    assert ORDER.index("table") < min(ORDER.index("campaign"), ORDER.index("inference"))


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("prior.py", "import os\nfrom sbi_circuits.cli import main\n", ":2: layer 'prior' imports 'cli'"),
        ("prior.py", "from .circuit import Circuit\n", ":1: layer 'prior' imports 'circuit'"),
        ("prior.py", "from . import circuit\n", ":1: layer 'prior' imports 'circuit'"),
        ("prior.py", "def f():\n    import sbi_circuits.cli\n", ":2: layer 'prior' imports 'cli'"),
        ("prior.py", "from sbi_circuits import Table\n", ":1: imports sbi_circuits.Table: name the module"),
        ("prior.py", "import sbi_circuits\n", ":1: imports sbi_circuits: name the module"),
        ("engines/codegen.py", "from ..features import isi\n", ":1: layer 'engines' imports 'features'"),
        ("engines/a/b.py", "from ...features import isi\n", ":1: layer 'engines' imports 'features'"),
        ("table.py", "from sbi_circuits.campaign import run\n", ":1: layer 'table' imports 'campaign'"),
        ("table.py", "from sbi_circuits.inference import train\n", ":1: layer 'table' imports 'inference'"),
        ("cli.py", "from sbi_circuits.simulators import x\n", ":1: imports sbi_circuits.simulators.x"),
        ("__main__.py", "from . import priors\n", ":1: imports sbi_circuits.priors"),
        ("circuit_checks.py", "import sbi_circuits.table\n", ":1: layer 'circuit' imports 'table'"),
        ("helpers.py", "", ":1: 'helpers' belongs to no layer"),
    ],
)
def test_negative_control_import_pointing_down(tmp_path: Path, file: str, text: str, expected: str) -> None:
    (found,) = layer_faults(write(tmp_path, {f"{PACKAGE}/{file}": text}))
    assert found.startswith(f"{PACKAGE}/{file}{expected}")


def test_allowed_imports_are_not_reported(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from .cli import main\n",
        "prior.py": "import numpy as np\nfrom sbi_circuits.errors import X\nfrom . import units\n",
        "engines/codegen.py": "from . import wiring\nfrom .wiring import W\nfrom ..circuit import Circuit\n",
        "report.py": "from sbi_circuits import __version__\n",
    }
    assert layer_faults(write(tmp_path, {f"{PACKAGE}/{name}": text for name, text in files.items()})) == []


def test_files_hold_one_idea() -> None:
    files = sources(ROOT, PACKAGE, *ZOO)
    lengths = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_no_source_executes_what_it_loads() -> None:
    assert [fault for path in sources(ROOT, PACKAGE, *ZOO) for fault in unsafe_faults(path)] == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle\npickle.load(f)",
        "import pickle as p\np.loads(b)",
        "from pickle import load as read\nread(f)",
        "import torch\ntorch.load(f, weights_only=True)",
        "import joblib\njoblib.load(f)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "\neval('1')",
        "\nexec(code)",
        "import builtins\nbuiltins.exec(code)",
    ],
)
def test_negative_control_executing_what_is_loaded(tmp_path: Path, text: str) -> None:
    (found,) = unsafe_faults(write(tmp_path, {"a.py": text}) / "a.py")
    assert found.startswith("a.py:2: ")


def test_plain_loading_is_not_reported(tmp_path: Path) -> None:
    text = "import json, numpy as np\njson.load(f)\nnp.load(f, allow_pickle=False)\nflow.eval()\n"
    assert unsafe_faults(write(tmp_path, {"a.py": text}) / "a.py") == []


def test_every_package_is_declared() -> None:
    """`packages` in pyproject.toml cannot be found automatically beside mapped folders."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    declared = project["tool"]["setuptools"]["packages"]
    inits = [path for path in sources(ROOT, PACKAGE, *ZOO) if path.name == "__init__.py"]
    folders = [path.parent.relative_to(ROOT).parts for path in inits]
    present = [".".join((PACKAGE, *parts) if parts[0] in ZOO else parts) for parts in folders]
    assert sorted(declared) == sorted(present)
