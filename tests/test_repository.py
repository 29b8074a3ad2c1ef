"""The habits of the repository: what reading a diff is bad at noticing."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("dynamics", "planners", "mbrl")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCES
    if path.name != "__main__.py"
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXPORTS = [(package, name) for package in PACKAGES for name in getattr(importlib.import_module(package), "__all__", ())]


def run_make(*arguments, cwd=ROOT):
    """The make of a user at a prompt, whatever make runs this suite."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=cwd, capture_output=True, text=True, env=environment)


def run_python(code, *options):
    return subprocess.run([sys.executable, *options, "-c", code], cwd=ROOT, capture_output=True, text=True)


def documented_here(kind):
    """Whether a docstring was written for this object: neither inherited nor made up by dataclass."""
    return bool(kind.__doc__) and not kind.__doc__.startswith(f"{kind.__name__}(")


def library_classes():
    """Every class that is defined in a module of the three packages."""
    for name in MODULES:
        for kind in vars(importlib.import_module(name)).values():
            if inspect.isclass(kind) and kind.__module__ == name:
                yield kind


def calls_and_statements(tree):
    """(line, what) of everything in a module that does not belong in library code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield node.lineno, "assert"
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            yield node.lineno, "bare except"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "exit", "quit", "sys.exit", "os._exit"}:
            yield node.lineno, ast.unparse(node.func)


def test_the_three_packages_have_code_and_exports():
    assert {package for package, _ in EXPORTS} == set(PACKAGES)
    assert len(MODULES) > 20


def test_no_init_file_under_tests_and_unique_names():
    files = [path.name for path in (ROOT / "tests").rglob("*.py")]
    assert "__init__.py" not in files
    assert len(files) == len(set(files))


def test_no_file_of_odds_and_ends():
    assert not [path for path in SOURCES if path.stem in {"utils", "util", "common", "helpers", "misc"}]


def test_every_module_imports_without_a_warning():
    result = run_python(f"import importlib\nfor name in {MODULES}: importlib.import_module(name)", "-W", "error")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("dynamics", "gymnasium matplotlib cvxpy mujoco warp minari h5py scipy planners mbrl"),
        ("planners", "gymnasium matplotlib cvxpy mujoco warp minari h5py scipy mbrl"),
    ],
)
def test_a_package_loads_nothing_heavy(package, forbidden):
    loaded = run_python(f"import {package}, sys; print(*(n for n in {forbidden.split()} if n in sys.modules))")
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.split() == []


@pytest.mark.parametrize(("package", "name"), EXPORTS, ids=".".join)
def test_an_exported_name_is_explained(package, name):
    exported = getattr(importlib.import_module(package), name)
    if inspect.isclass(exported) or inspect.isroutine(exported):
        assert documented_here(exported), f"{package}.{name} has no docstring of its own"


def test_a_name_is_exported_once():
    homes = {}
    for package, name in EXPORTS:
        homes.setdefault(name, []).append(package)
    assert {name: packages for name, packages in homes.items() if len(packages) > 1} == {}


def test_an_object_is_exported_under_one_name():
    names = {}
    for package, name in EXPORTS:
        exported = getattr(importlib.import_module(package), name)
        if inspect.isclass(exported) or inspect.isroutine(exported):
            names.setdefault(exported, []).append(f"{package}.{name}")
    assert [where for where in names.values() if len(where) > 1] == []


def test_no_statement_that_does_not_belong_in_a_library():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in SOURCES
        for line, what in calls_and_statements(ast.parse(path.read_text()))
    ]
    assert found == []


def test_the_statement_check_finds_what_it_looks_for():
    code = "assert x\nprint(x)\nimport sys; sys.exit()\ntry: pass\nexcept: pass\ntorch.testing.assert_close(x, x)"
    assert [what for _, what in sorted(calls_and_statements(ast.parse(code)))] == [
        "assert",
        "print",
        "sys.exit",
        "bare except",
    ]


def test_classes_are_abstract_or_final():
    classes = set(library_classes())
    extended = {base for kind in classes for base in kind.__mro__[1:] if base in classes}
    exceptions = {kind for kind in extended if issubclass(kind, BaseException)}
    concrete = [f"{kind.__module__}.{kind.__name__}" for kind in extended - exceptions if not inspect.isabstract(kind)]
    assert sorted(concrete) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_exported_name_is_shown_to_the_reader(package):
    """In the README, a page of the documentation, or an example; the API reference alone does not introduce a name."""
    pages = [
        ROOT / "README.md",
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("examples/**/*.py"),
        *ROOT.glob("examples/**/*.md"),
    ]
    words = set(re.findall(r"\w+", "\n".join(page.read_text() for page in pages)))
    assert [name for owner, name in EXPORTS if owner == package and name not in words] == []


def test_the_layers_point_down():
    pytest.importorskip("importlinter")
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 kept, 0 broken" in result.stdout


def test_the_pins_cover_the_declared_ranges():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pins = {name.lower().replace("_", "-"): Version(version) for name, version in pins.items()}
    assert not [name for name, version in pins.items() if version.local]
    declared = [*PROJECT["dependencies"], *(r for extra in PROJECT["optional-dependencies"].values() for r in extra)]
    for requirement in map(Requirement, declared):
        if requirement.name != PROJECT["name"]:
            assert requirement.specifier.contains(pins[requirement.name.lower()], prereleases=True), str(requirement)


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    listed = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for target in ("help", "install", "demo", "test", "test-slow", "lint", "bench", "docs", "wheel", "clean"):
        assert re.search(rf"^  {target} +\S", listed, re.MULTILINE), target
        assert re.search(rf"^\.PHONY:.* {target}\b", makefile, re.MULTILINE), target


def test_make_says_what_is_missing(tmp_path):
    """Without Python or its venv module: one sentence, no traceback."""
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    without_venv = tmp_path / "python"
    without_venv.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\n')
    without_venv.chmod(0o755)
    for python, sentence in (("no-such-python", "Python 3.11 or newer is missing"), (without_venv, "python3-venv")):
        result = run_make("demo", f"PYTHON={python}", cwd=tmp_path)
        assert result.returncode != 0
        assert sentence in result.stderr
        assert len(result.stderr.splitlines()) == 2  # the sentence, and make's own line
    assert not (tmp_path / ".venv").exists()


def test_the_changelog_and_the_citation_know_the_version():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert changelog.count("\n## [Unreleased]\n") == 1
    assert f"\nversion: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text()


def test_every_package_has_a_reference_page():
    for package in PACKAGES:
        assert f".. automodule:: {package}\n" in (ROOT / "docs" / "reference" / f"{package}.md").read_text()


SMALLER = {
    "README.md": {
        "steps=4000": "steps=40",
        "ICEM(initial_std=0.6)": "ICEM(num_samples=20, max_iterations=1)",
        "PPO(num_envs=16, steps_per_iteration=1024)": "PPO(num_envs=2, steps_per_iteration=32, epochs=1)",
        "steps=40_000": "steps=32",
    },
    "docs/imitation.md": {
        "steps=2000": "steps=20",
        "gradient_steps=500": "gradient_steps=20",
        "horizon=15": "horizon=2",
    },
}


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{page.name}" for page in sorted(ROOT.glob("docs/*.md")))])
def test_the_snippets_of_a_page_run(page, tmp_path, monkeypatch):
    """All Python blocks of a page, top to bottom, as a reader would type them at the root of a clone, at a smaller scale."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    namespace = {"__name__": "snippets"}
    text = (ROOT / page).read_text()
    for full, small in SMALLER.get(page, {}).items():
        assert full in text
        text = text.replace(full, small)
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        before = text[: block.start(1)].count("\n")
        exec(compile("\n" * before + block[1], str(ROOT / page), "exec"), namespace)
