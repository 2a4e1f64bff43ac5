"""Options from files and from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from modal_magic.config import INTERNAL_VARIABLES, from_environment, from_file, outer_layers
from modal_magic.errors import UsageError
from modal_magic.options import OPTIONS, resolve
from modal_magic.prices import OWN_PRICES
from modal_magic.resuming import CHECKPOINTS, VOLUMES


def write(folder: Path, name: str, content: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content, encoding="utf-8")
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        from_file(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_file_gives_nothing(tmp_path: Path) -> None:
    assert from_file(tmp_path) == {}


def test_keys_of_our_own_file_may_be_written_either_way(tmp_path: Path) -> None:
    content = 'nproc-per-node = 2\noutput_limit = "off"\nranks = [2, 0]\nlease = "2h"\n[env]\nOMP_NUM_THREADS = 1\n'
    assert from_file(write(tmp_path, "modal_magic.toml", content)) == {
        "nproc_per_node": 2,
        "output_limit": None,
        "ranks": (0, 2),
        "lease": 7200.0,
        "env": (("OMP_NUM_THREADS", "1"),),
    }


@pytest.mark.parametrize("table", ["modal_magic", "modal-magic"])
def test_a_table_of_pyproject_counts(tmp_path: Path, table: str) -> None:
    write(tmp_path, "pyproject.toml", f'[project]\nname = "x"\n[tool.{table}]\nreplicas = 4\n')
    assert from_file(tmp_path) == {"replicas": 4}


def test_the_nearest_file_with_settings_is_the_only_one(tmp_path: Path) -> None:
    write(tmp_path, "modal_magic.toml", 'replicas = 8\ngpu = "A100"\n')
    write(tmp_path / "a", "pyproject.toml", "[tool.modal_magic]\nreplicas = 4\n")
    write(tmp_path / "a/b", "pyproject.toml", "[tool.other]\nreplicas = 2\n")
    (tmp_path / "a/b/modal_magic.toml").write_text("# nothing yet\n")
    assert from_file(tmp_path / "a/b") == {"replicas": 4}


def test_our_own_file_comes_before_pyproject_in_the_same_folder(tmp_path: Path) -> None:
    write(tmp_path, "pyproject.toml", "[tool.modal_magic]\nreplicas = 4\n")
    write(tmp_path, "modal_magic.toml", "replicas = 2\n")
    assert from_file(tmp_path) == {"replicas": 2}


def test_an_unknown_key_names_file_key_and_nearest(tmp_path: Path) -> None:
    write(tmp_path, "modal_magic.toml", "replica = 4\n")
    assert refusal(tmp_path) == f"{tmp_path / 'modal_magic.toml'}: unknown option replica; did you mean replicas?"


def test_a_bad_value_names_file_and_bounds(tmp_path: Path) -> None:
    write(tmp_path, "modal_magic.toml", "replicas = 0\n")
    path = tmp_path / "modal_magic.toml"
    assert refusal(tmp_path) == f"{path}: replicas=0: a session has 1 to 1024 nodes; try replicas=1"


@pytest.mark.parametrize(("content", "line"), [("replicas = 4\ngpu = A100\n", "line 2"), ("a = 1\nb = [1,", "line 2")])
def test_broken_toml_names_file_and_line(tmp_path: Path, content: str, line: str) -> None:
    message = refusal(write(tmp_path, "modal_magic.toml", content))
    assert message.startswith(f"{tmp_path / 'modal_magic.toml'} is not valid TOML: ")
    assert line in message


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "modal_magic.toml").write_bytes(b"\xff\xfe")
    assert "modal_magic.toml cannot be read: " in refusal(tmp_path)


def test_the_errors_of_a_pyproject_that_never_names_us_are_not_ours(tmp_path: Path) -> None:
    assert from_file(write(tmp_path, "pyproject.toml", "[project\n")) == {}


def test_a_setting_in_place_of_the_table_is_refused(tmp_path: Path) -> None:
    assert "write [tool.modal_magic]" in refusal(write(tmp_path, "pyproject.toml", "[tool]\nmodal_magic = 4\n"))


def test_variables_give_options() -> None:
    environ = {
        "MODAL_MAGIC_REPLICAS": "4",
        "MODAL_MAGIC_ENV": "A=1 'B=two words'",
        "MODAL_MAGIC_RESTART": "no",
        "MODAL_MAGIC_GPU": "",
        "MODAL_TOKEN_ID": "x",
        "PATH": "/bin",
    }
    assert from_environment(environ) == {"replicas": 4, "env": (("A", "1"), ("B", "two words")), "restart": False}


def test_the_process_has_the_file_of_its_folder_and_its_own_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "modal_magic.toml", "replicas = 4\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODAL_MAGIC_GPU", "L4")
    assert outer_layers() == ({"replicas": 4}, {"gpu": "L4"})
    monkeypatch.setenv("MODAL_MAGIC_RANGS", "1")
    with pytest.raises(UsageError, match="unknown environment variable MODAL_MAGIC_RANGS"):
        outer_layers()


def test_variables_of_our_own_are_no_options() -> None:
    assert {OWN_PRICES, CHECKPOINTS, VOLUMES, "MODAL_MAGIC_RUNTIME_DIR"} == INTERNAL_VARIABLES
    assert from_environment(dict.fromkeys(INTERNAL_VARIABLES, "x")) == {}


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        (
            "MODAL_MAGIC_REPLICAS",
            "0",
            "MODAL_MAGIC_REPLICAS=0: a session has 1 to 1024 nodes; try MODAL_MAGIC_REPLICAS=1",
        ),
        (
            "MODAL_MAGIC_REPLICA",
            "4",
            "unknown environment variable MODAL_MAGIC_REPLICA; did you mean MODAL_MAGIC_REPLICAS?",
        ),
        ("MODAL_MAGIC_ENV", "A", "MODAL_MAGIC_ENV: write NAME=VALUE; try MODAL_MAGIC_ENV=NCCL_DEBUG=INFO"),
        (
            "MODAL_MAGIC_ENV",
            "'A",
            "MODAL_MAGIC_ENV: a quote is opened and not closed; write it as 'MODAL_MAGIC_ENV=A=1 B=2'",
        ),
    ],
)
def test_a_bad_variable_says_what_to_do(variable: str, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_environment({variable: text})
    assert str(caught.value) == message


def test_a_refused_variable_does_not_show_what_may_be_secret() -> None:
    with pytest.raises(UsageError) as caught:
        from_environment({"MODAL_MAGIC_ENV": "1TOKEN=hunter2"})
    assert "hunter2" not in str(caught.value)


@given(some.dictionaries(some.sampled_from([option.variable for option in OPTIONS]), some.text(max_size=12)))
def test_any_environment_is_read_or_refused_in_one_line(environ: dict[str, str]) -> None:
    try:
        from_environment(environ)
    except UsageError as error:
        assert len(str(error).splitlines()) == 1


def test_the_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    write(tmp_path, "modal_magic.toml", 'replicas = 8\ngpu = "T4"\nlease = 60\n')
    options = resolve(
        from_file(tmp_path), from_environment({"MODAL_MAGIC_GPU": "L4", "MODAL_MAGIC_LEASE": "2min"}), {"gpu": None}
    )
    assert (options.replicas, options.gpu, options.lease) == (8, None, 120.0)
