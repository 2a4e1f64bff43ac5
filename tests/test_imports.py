"""Who may import whom, what an import loads, and what the package's code keeps away from: read from the source."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import modal_magic

ROOT = Path(modal_magic.__file__).parent
FILES = {path.relative_to(ROOT).as_posix().removesuffix(".py"): path for path in sorted(ROOT.rglob("*.py"))}
"""Every file of the package by its path in it: `view/text`."""
TREES = {name: ast.parse(path.read_text(), str(path)) for name, path in FILES.items()}

GROUND = {
    "errors",
    "ranges",
    "values",
    "reading",
    "options",
    "magic_tables",
    "config",
    "containers",
    "protocol",
    "topology",
    "specs",
    "lines",
    "series",
    "live",
    "prices",
    "signals",
    "waits",
}
"""What anybody may import; on the ground floor itself there are narrower doors."""
FREE = {"__init__", "_version"}

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "ranges": set(),
    "protocol": {"protocol"},
    "values": {"ranges", "values"},
    "reading": {"errors", "ranges", "values"},
    "containers": {"values", "reading"},
    "options": {"errors", "ranges", "values", "reading", "containers"},
    "magic_tables": {"values", "reading", "options"},
    "config": {"errors", "values", "reading", "options"},
    "specs": {"protocol"},
    "topology": {"protocol", "options"},
    "lines": {"protocol"},
    "series": set(),
    "live": {"protocol", "series"},
    "prices": {"errors", "containers", "protocol"},
    "signals": set(),
    "waits": set(),
    "state": {"protocol", "ranges", "values", "topology", "state"},
    "segments": {"protocol"},
    "links": {"protocol", "links"},
    "links/client": {*GROUND, "registry", "links"},
    "gateway": {"protocol", "specs", "topology", "lines", "live", "state", "segments", "links/delivery", "gateway"},
    "gateway/doors": {"protocol", "specs", "links"},
    "gateway/serving": {"protocol", "specs", "links", "gateway"},
    "registry": GROUND,
    "this_rank": set(),
    "reporting": {"this_rank"},
    "resuming": {"errors", "this_rank"},
    "sessions": {*GROUND, "segments", "registry", "links", "sessions", "view"},
    "sessions/resources": {*GROUND, "links/thread", "backends"},
    "sessions/planning": {*GROUND, "registry", "backends"},
    "notebook": {*GROUND, "registry", "sessions", "notebook", "view"},
    "backends": {*GROUND, "registry", "links", "resuming", "backends"},
    "frameworks": {*GROUND, "frameworks"},
    "node": {*GROUND, "links", "frameworks", "node"},
    "node/born": {*GROUND, "gateway", "frameworks", "node"},
    "view": {*GROUND, "view"},
    "server": {*GROUND, "registry", "links", "view", "server"},
}
"""The arrows of the design: for each room, or each file of one, what it may import at run time."""

HERE = {
    "node",
    "frameworks",
    "gateway",
    "backends/local",
    "backends/zygotes",
    "backends/modal_gateway",
    "backends/modal_node",
}
"""What never runs in a kernel that has no Unix: the rest does."""
ON_MODAL = {
    f"backends/modal_{name}"
    for name in ("inventory", "app", "bridge", "carrier", "gateway", "meeting", "node", "restores", "trouble")
} | {"backends/modal_volumes"}
"""What the Modal backend loads when a session is started there; the client of Modal comes with it."""
UNIX_MODULES = {"fcntl", "resource", "pwd", "grp", "pty", "termios"}
UNIX_NAMES = {"fork", "forkpty", "killpg", "setsid", "SIGKILL", "AF_UNIX", "socketpair", "send_fds", "recv_fds"}
MUTATORS = {"append", "extend", "insert", "remove", "pop", "popitem", "clear", "add", "discard", "update", "setdefault"}


def room_of(name: str) -> str:
    """The room that a file belongs to: `node` of `node/agent`."""
    return name.split("/")[0]


def run_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All that is in a source but what only type checkers see."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield other
                yield from run_time_nodes(other)
        else:
            yield node
            yield from run_time_nodes(node)


def imported_from_us(nodes: Iterator[ast.AST]) -> set[str]:
    """The files of the package that are imported, by their paths in it."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {name.removeprefix("modal_magic.").replace(".", "/") for name in found if name.startswith("modal_magic.")}
    return {name if name in FILES or f"{name}/__init__" in FILES else name.rpartition("/")[0] for name in ours} - {""}


def imports(name: str) -> set[str]:
    return imported_from_us(run_time_nodes(TREES[name]))


def module_level(tree: ast.Module) -> Iterator[ast.AST]:
    """What runs when a file is imported: nothing that stands inside a function."""
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo += ast.iter_child_nodes(node)


def docstrings(tree: ast.AST) -> set[int]:
    """The lines on which a text stands that is only there to be read."""
    return {
        node.value.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


# ---- what an import loads --------------------------------------------------------------------------------------------


def loaded_by(statement: str, *suspects: str) -> list[str]:
    """Which of these modules a fresh interpreter has after a statement."""
    code = f"{statement}\nimport sys\nprint(*[name for name in {suspects!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_the_package_loads_next_to_nothing() -> None:
    suspects = (
        "torch",
        "modal",
        "IPython",
        "ipywidgets",
        "zmq",
        "msgspec",
        "numpy",
        "asyncio",
        "modal_magic.sessions.session",
    )
    assert loaded_by("import modal_magic", *suspects) == []


def test_loading_the_magics_loads_neither_torch_nor_modal_nor_widgets() -> None:
    suspects = (
        "torch",
        "modal",
        "ipywidgets",
        "numpy",
        "matplotlib",
        "modal_magic.backends.local",
        "modal_magic.gateway",
    )
    assert loaded_by("import modal_magic.notebook.magics, modal_magic.notebook.extension", *suspects) == []


def test_every_public_name_is_there() -> None:
    assert all(getattr(modal_magic, name) is not None for name in modal_magic.__all__)
    with pytest.raises(AttributeError, match="module 'modal_magic' has no attribute 'nonsense'"):
        _ = modal_magic.nonsense


def test_the_version_stands_in_one_place() -> None:
    assert modal_magic.__version__ == importlib.metadata.version("modal-magic")
    literals = [
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value == modal_magic.__version__
    ]
    assert literals == ["_version"]


# ---- the arrows ------------------------------------------------------------------------------------------------------


def test_every_room_has_its_doors_written_down() -> None:
    rooms = {room_of(name) for name in FILES} - FREE
    assert rooms == {room_of(name) for name in MAY_IMPORT}
    assert set(MAY_IMPORT) <= rooms | set(FILES)


def test_arrows_are_seen_wherever_they_stand() -> None:
    assert imports("sessions/resources") >= {"errors", "links/thread", "backends/base", "backends/local"}
    assert "sessions/session" not in imports("view/console")  # only type checkers follow that one
    assert "gateway/serving" in imports("node/born")


def test_a_room_imports_only_what_it_may() -> None:
    wrong = {
        name: {
            found
            for found in imports(name)
            if not {found, room_of(found)} & MAY_IMPORT.get(name, MAY_IMPORT[room_of(name)])
        }
        for name in FILES.keys() - FREE
    }
    assert {name: found for name, found in wrong.items() if found} == {}


def test_only_the_extension_imports_the_magics() -> None:
    assert [name for name in FILES if "notebook/magics" in imports(name)] == ["notebook/extension"]
    assert [name for name in FILES if "notebook/extension" in imports(name)] == ["__init__"]


def test_only_the_resources_of_sessions_reach_for_a_backend() -> None:
    reaching = {name for name in FILES if any(room_of(found) == "backends" for found in imports(name))}
    outside = {name for name in reaching if room_of(name) != "backends"}
    assert outside == {"sessions/resources", "sessions/planning"}
    at_import = {*imported_from_us(module_level(TREES["sessions/resources"])), *imports("sessions/planning")}
    assert {found for found in at_import if room_of(found) == "backends"} == {"backends/base"}


def test_only_what_runs_beside_a_rank_imports_torch_or_ipython_at_once() -> None:
    heavy = {
        "torch": {f"frameworks/{name}" for name in ("calls", "ddp", "freeing", "store", "torch", "works")},
        "IPython": {
            *(f"notebook/{name}" for name in ("magics", "magic_options", "extension")),
            *(f"node/{name}" for name in ("shell", "displays", "compiling")),
        },
        "modal": ON_MODAL,
    }
    for module, allowed in heavy.items():
        found = {
            name
            for name, tree in TREES.items()
            for node in module_level(tree)
            if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == module for alias in node.names))
            or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == module)
        }
        assert found <= allowed


def test_no_two_files_import_each_other() -> None:
    TopologicalSorter({name: imported_from_us(module_level(TREES[name])) for name in FILES}).prepare()


# ---- what the code keeps away from -----------------------------------------------------------------------------------


def test_what_runs_in_a_kernel_does_without_unix() -> None:
    used = {name: unix_in(tree) for name, tree in TREES.items() if name not in HERE and room_of(name) not in HERE}
    assert {name: found for name, found in used.items() if found} == {}
    assert unix_in(TREES["node/zygote"])  # it would be found


def unix_in(tree: ast.Module) -> set[str]:
    """What of Unix a file imports or names."""
    read_only = docstrings(tree)
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & UNIX_MODULES
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module)} & UNIX_MODULES | {alias.name for alias in node.names} & UNIX_NAMES
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("os", "signal", "socket"):
            found |= {node.attr} & UNIX_NAMES
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.lineno not in read_only:
            found |= {"/proc"} if "/proc" in node.value else set()
    return found


def test_there_is_no_module_state() -> None:
    rebound = {name for name, tree in TREES.items() if any(isinstance(node, ast.Global) for node in ast.walk(tree))}
    assert rebound == set()
    for name, tree in TREES.items():
        containers = mutable_constants(tree) - {"__all__"}
        assert {found for found in containers if not found.isupper()} == set(), f"not a constant, in {name}"
        assert containers & set(changed_names(tree)) == set(), f"a constant that changes, in {name}"


def mutable_constants(tree: ast.Module) -> set[str]:
    """Names of a module that stand for a list, a dict or a set."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            value = node.value
            mutable = isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)
            maker = ast.unparse(value.func) if isinstance(value, ast.Call) else ""
            if mutable or maker in ("list", "dict", "set", "defaultdict", "deque"):
                found |= set(map(ast.unparse, node.targets if isinstance(node, ast.Assign) else [node.target]))
    return found


def changed_names(tree: ast.AST) -> Iterator[str]:
    """Names of which a part is set or deleted, or that are told to change."""
    for node in ast.walk(tree):
        stored = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del)
        if isinstance(node, ast.Subscript | ast.Attribute) and (stored or getattr(node, "attr", "") in MUTATORS):
            yield ast.unparse(node.value)
        elif isinstance(node, ast.AugAssign):
            yield ast.unparse(node.target)


def test_every_file_begins_by_saying_what_it_is() -> None:
    told = {name: (ast.get_docstring(tree) or "").split("\n")[0] for name, tree in TREES.items()}
    assert {name for name, words in told.items() if not words.endswith((".", ":"))} == set()


def test_what_a_file_gives_away_is_there() -> None:
    for name, tree in TREES.items():
        assigned = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
        targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
        names = {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
        listed = assigned.get("__all__")
        if isinstance(listed, ast.List) and not any(isinstance(item, ast.Starred) for item in listed.elts):
            given = [str(ast.literal_eval(item)) for item in listed.elts]
            defined = {
                *names,
                *(
                    alias.asname or alias.name
                    for node in tree.body
                    if isinstance(node, ast.ImportFrom)
                    for alias in node.names
                ),
                *(node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)),
                *(ast.unparse(node.target) for node in tree.body if isinstance(node, ast.AnnAssign)),
            }
            assert set(given) <= defined, name
            assert len(set(given)) == len(given), name
