"""The house rules that a machine can check."""

import ast
import importlib.metadata
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("algorithms", "supervision", "evaluation", "site_agent", "coordinator", "clinical_ui")
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}
UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
HEAVY = ("torch", "monai", "pydicom", "SimpleITK", "streamlit", "sklearn", "numba")


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def modules(package: str) -> list[str]:
    found = pkgutil.walk_packages([str(ROOT / package)], f"{package}.")
    return [package, *(module.name for module in found if not module.name.endswith("__main__"))]


def loaded_by(*imported: str) -> set[str]:
    """Import modules in a fresh interpreter and return what it then holds, packages among them."""
    code = f"import sys, json, {', '.join(imported)}\nprint(json.dumps(sorted(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return set(json.loads(ended.stdout.splitlines()[-1]))


# -- what may import what -----------------------------------------------------------------------


def test_imports_point_down() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    ended = subprocess.run(
        [command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout
    assert "0 broken" in ended.stdout


def test_importing_any_room_of_the_coordinator_loads_nothing_that_reads_images() -> None:
    assert "coordinator.cli" in modules("coordinator")
    loaded = loaded_by(*modules("coordinator"))
    assert loaded & {*HEAVY, "site_agent", "clinical_ui"} == set()


def test_the_answer_to_the_coordinator_is_given_without_torch_or_pydicom() -> None:
    """Flower starts a fresh process per message: it must be quick."""
    assert loaded_by("site_agent.client_app") & {*HEAVY, "scipy.stats"} == set()


def test_a_tick_waits_for_no_statistics() -> None:
    """Flower starts a fresh process per tick, and few collect a report."""
    assert "scipy.stats" not in loaded_by("coordinator.server_app")


def test_receiving_images_loads_no_torch() -> None:
    """The listener runs all day beside everything else."""
    loaded = loaded_by("site_agent.listener", "site_agent.dimse", "site_agent.dicomweb")
    assert "pynetdicom" in loaded
    assert loaded & {"torch", "monai", "numba", "streamlit"} == set()


def test_contracts_are_standard_library_numpy_and_pydantic() -> None:
    third_party = set(importlib.metadata.packages_distributions())
    allowed = loaded_by("numpy", "pydantic", "annotated_types") | {"algorithms"}
    assert (loaded_by(*contract_modules()) & third_party) - allowed == set()


def contract_modules() -> list[str]:
    folder = ROOT / "algorithms" / "contracts"
    return [f"algorithms.contracts.{file.stem}" for file in folder.glob("[a-z]*.py")]


def test_the_package_of_methods_is_a_docstring() -> None:
    tree = ast.parse((ROOT / "algorithms" / "__init__.py").read_text("utf-8"))
    assert len(tree.body) == 1
    assert ast.get_docstring(tree)


# -- what is written -------------------------------------------------------------------------


def public_definitions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Yield public functions and classes, and public methods of public classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name.startswith("_"):
                continue
            yield node
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield inner


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_everything_public_says_what_it_does(file: Path) -> None:
    tree = ast.parse(file.read_text("utf-8"))
    assert ast.get_docstring(tree), "the module has no docstring"
    silent = [node.name for node in public_definitions(tree) if not ast.get_docstring(node)]
    assert silent == []


def imported_names(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_there_is_no_pickle_anywhere() -> None:
    for file in FILES:
        tree = ast.parse(file.read_text("utf-8"))
        assert imported_names(tree) & UNSAFE == set(), relative(file)
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            assert name not in ("torch.load", "torch.save"), relative(file)
            if name == "np.load":
                keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
                assert keywords.get("allow_pickle") == "False", f"{relative(file)}:{call.lineno}"


def test_no_file_has_a_name_that_says_nothing() -> None:
    vague = [relative(f) for f in FILES if set(f.stem.strip("_").split("_")) & VAGUE_NAMES]
    assert vague == []


def test_methods_read_no_file_clock_or_environment() -> None:
    forbidden = {"os", "pathlib", "time", "datetime", "socket", "urllib", "requests", "random"}
    for file in (ROOT / "algorithms").rglob("*.py"):
        tree = ast.parse(file.read_text("utf-8"))
        assert imported_names(tree) & forbidden == set(), relative(file)


def test_flowers_words_stay_in_the_transport() -> None:
    allowed = {
        "site_agent/bundle_answer.py",
        "site_agent/client_app.py",
        "site_agent/supernode.py",
        "site_agent/message_check.py",
        "site_agent/site_executor.py",
        "coordinator/bundle_mailbox.py",
        "coordinator/server_app.py",
        "coordinator/embedded_transport.py",
        "coordinator/transport.py",
        "coordinator/loopback_keys.py",
        "coordinator/superlink.py",
        "coordinator/superlink_mailbox.py",
        "coordinator/superlink_nodes.py",
    }
    users = {
        relative(file)
        for file in FILES
        if "flwr" in imported_names(ast.parse(file.read_text("utf-8")))
    }
    assert users
    assert users <= allowed


@pytest.mark.parametrize("folder", ["/work", "/root", "/home/", "/tmp"])
def test_no_file_names_a_place_on_somebodys_machine(folder: str) -> None:
    found = [
        f"{relative(file)}:{number}"
        for file in FILES
        for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1)
        if f'"{folder}' in line or f"'{folder}" in line
    ]
    assert found == []
