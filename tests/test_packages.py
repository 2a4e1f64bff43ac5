"""What is published installs where there is no Node: sdist and wheel carry the views built, and Jupyter finds them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
VIEWS = ("modal_magic/labextension/package.json", "modal_magic/labextension/static/style.js")
WIDGET = ("modal_magic/static/widget.js", "modal_magic/static/widget.css")

pytestmark = pytest.mark.patient


@pytest.fixture(scope="module")
def without_node(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which neither Node nor what would fetch it is found."""
    folder = tmp_path_factory.mktemp("bin")
    for name in ("git", "tar"):
        if (found := shutil.which(name)) is not None:
            (folder / name).symlink_to(found)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHONPATH", "JUPYTER"))}
    kept.update(PATH=str(folder), PIP_NO_INDEX="1", PIP_DISABLE_PIP_VERSION_CHECK="1")
    assert shutil.which("node", path=str(folder)) is None
    return kept


def build(kind: str, source: Path, target: Path, environment: dict[str, str]) -> Path:
    """Build an sdist or a wheel. Returns the file."""
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--skip-dependency-check",
        f"--{kind}",
        "--outdir",
        str(target),
        str(source),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = target.iterdir()
    return made


@pytest.fixture(scope="module")
def sdist(without_node: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"), without_node)


@pytest.fixture(scope="module")
def wheel(sdist: Path, without_node: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that was built from the sdist alone, as pip does it."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return build("wheel", source, tmp_path_factory.mktemp("wheel"), without_node)


def test_an_sdist_and_a_wheel_carry_the_built_views_and_no_leftovers(sdist: Path, wheel: Path) -> None:
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        shipped = set(archive.namelist())
    assert {*VIEWS, *WIDGET} <= inside
    assert set(WIDGET) <= shipped
    assert not [name for name in inside if "node_modules" in name or "__pycache__" in name]
    assert not [name for name in shipped if name.startswith(("tests/", "labextension/"))]
    assert sdist.stat().st_size < 2_000_000
    assert wheel.stat().st_size < 600_000


def test_jupyter_finds_both_extensions_of_an_installed_wheel(
    wheel: Path, without_node: dict[str, str], tmp_path: Path
) -> None:
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--ignore-installed",
        "--prefix",
        str(tmp_path),
        str(wheel),
    ]
    subprocess.run(install, env=without_node, check=True, capture_output=True)
    (packages,) = tmp_path.glob("lib/python*/site-packages")
    environment = {
        **without_node,
        "PYTHONPATH": str(packages),
        "JUPYTER_PATH": str(tmp_path / "share" / "jupyter"),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "etc" / "jupyter"),
    }

    def told(module: str, *words: str) -> str:
        done = subprocess.run([sys.executable, "-m", module, *words], env=environment, capture_output=True, text=True)
        said = re.sub(r"\x1b\[\d*m", "", done.stdout + done.stderr)
        return said.partition(str(tmp_path))[2]  # what this environment has stands before what Python's own has

    labs = told("jupyter", "labextension", "list").splitlines()
    assert re.search(r"modal-magic v\S+ enabled OK", labs[1]), labs
    servers = told("jupyter", "server", "extension", "list").splitlines()
    assert servers[1].split() == ["modal_magic.server", "enabled"], servers
    assert re.search(r"modal_magic\.server \S* *OK", servers[3]), servers
