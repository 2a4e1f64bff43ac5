"""The table of options: reading, writing, bounds, layers and shapes."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from modal_magic.errors import UsageError
from modal_magic.magic_tables import (
    LOGS_OPTIONS,
    POSITIONALS,
    RESTART_OPTIONS,
    SESSION,
    STATUS_OPTIONS,
    STOP_OPTIONS,
    TABLES,
)
from modal_magic.options import OPTIONS, Options, Shape, differences, docs_table, resolve
from modal_magic.reading import Option, argument_specs, format_line, parse_line, parse_values
from modal_magic.values import GPU_TYPES

rank_sets = some.sets(some.integers(0, 1023), min_size=1, max_size=20).map(lambda ranks: tuple(sorted(ranks)))
contents = some.text(some.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
gpus = some.tuples(some.sampled_from(GPU_TYPES), some.sampled_from(["", ":1", ":8"])).map("".join)
times = some.floats(1e-6, 30 * 86400.0) | some.integers(1, 30 * 86400).map(float)
values = some.fixed_dictionaries(
    {},
    optional={
        "replicas": some.integers(1, 1024),
        "gpu": some.none() | gpus,
        "nproc_per_node": some.none() | some.integers(1, 64),
        "backend": some.sampled_from(["auto", "local", "modal"]),
        "session": some.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
        "ranks": some.none() | rank_sets,
        "show": some.none() | some.just("all") | rank_sets,
        "framework": some.sampled_from(["torch", "none"]),
        "env": some.dictionaries(
            some.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True), contents, min_size=1
        ).map(lambda pairs: tuple(sorted(pairs.items()))),
        "output_limit": some.none() | some.integers(1, 10**15),
        "restart": some.just(True),
        "lease": times,
        "idle": some.none() | some.just("auto") | times,
        "max_lifetime": some.none() | times,
        "end_with_kernel": some.just(True),
        "background": some.just(True),
        "handle": some.sampled_from(["run", "training", "läuft"]),
        "timeout": some.none() | times,
        "retries": some.integers(0, 10),
        "retry_initial_delay": some.floats(0, 60),
        "retry_backoff_coefficient": some.sampled_from([1.0, 1.5, 2.25, 10.0]),
        "retry_max_delay": some.floats(1, 60),
        "retry_on_error": some.just(True),
        "region": some.sampled_from(["us-east", "eu-west"]),
        "cloud": some.none() | some.sampled_from(["aws", "gcp", "oci"]),
        "cpu": some.sampled_from([0.125, 1.0, 64.0]),
        "memory": some.integers(128 * 2**20, 2**45),
        "ephemeral_disk": some.integers(2**39, 2**45),
        "image": some.sampled_from(["Dockerfile", "nvcr.io/nvidia/pytorch:25.09-py3"]),
        "pip": some.just(("transformers==4.57.0", "x[y]>=1")),
        "python": some.just("3.12"),
        "secret": some.just(("huggingface",)),
        "volume": some.just(("checkpoints:/checkpoints", "data-2:/mnt/data")),
        "include": some.just(("mine", "other.part")),
        "snapshot": some.sampled_from(["cpu", "gpu", "off"]),
        "clustered": some.just(True),
        "rdma": some.just(True),
        "preload": some.just(("transformers",)),
        "no_i6pn": some.just(True),
        "startup_timeout": some.floats(1, 86400),
        "scaledown": some.none() | some.floats(2, 3600),
        "min_containers": some.none() | some.integers(1, 1024),
        "nonpreemptible": some.just(True),
    },
)
scalars = some.none() | some.booleans() | some.integers() | some.floats() | some.text()
anything = scalars | some.lists(scalars) | some.dictionaries(some.text(), scalars)


def refusal(line: str, options: tuple[Option, ...] = OPTIONS, positional: str | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        parse_line(line, options, positional)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@given(values)
def test_what_is_written_as_a_line_is_read_back(given_values: dict[str, object]) -> None:
    assert parse_line(format_line(given_values, OPTIONS), OPTIONS) == given_values


@given(values)
def test_parsed_values_are_natural_values_too(given_values: dict[str, object]) -> None:
    assert parse_values(given_values, OPTIONS, "here") == given_values


@given(
    some.text(max_size=40) | some.lists(some.sampled_from([o.flag for o in OPTIONS] + ["x", "-1", "'"])).map(" ".join)
)
def test_any_line_is_read_or_refused_in_one_line(line: str) -> None:
    try:
        parse_line(line, OPTIONS)
    except UsageError as error:
        assert len(str(error).splitlines()) == 1


@given(some.sampled_from([option.name for option in OPTIONS]), anything)
def test_any_value_is_read_or_refused_in_one_line(name: str, value: object) -> None:
    try:
        parse_values({name: value}, OPTIONS, "modal_magic.toml")
    except UsageError as error:
        assert str(error).startswith(f"modal_magic.toml: {name}")
        assert len(str(error).splitlines()) == 1


def test_an_empty_line_gives_nothing_and_the_defaults_hold() -> None:
    assert parse_line("", OPTIONS) == {}
    assert resolve() == Options()
    assert Options().output_limit == 10_000_000
    assert Options().lease == 1800.0


def test_a_comment_ends_a_line() -> None:
    told = parse_line("-n 2 --env A=b#c  # two of them, that's all", OPTIONS)
    assert told == {"replicas": 2, "env": (("A", "b#c"),)}


def test_a_line_gives_only_what_it_names() -> None:
    line = (
        "--replicas 4 --gpu=h100:8 --env A=1 --env 'B=two words' --env=C=x=y --output-limit off --ranks 2,0-1 --restart"
    )
    assert parse_line(line, OPTIONS) == {
        "replicas": 4,
        "gpu": "H100:8",
        "env": (("A", "1"), ("B", "two words"), ("C", "x=y")),
        "output_limit": None,
        "ranks": (0, 1, 2),
        "restart": True,
    }


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("output_limit", "10MB", 10_000_000),
        ("output_limit", "500kB", 500_000),
        ("output_limit", "2GB", 2_000_000_000),
        ("output_limit", "1.5 MiB", 1_572_864),
        ("output_limit", "123", 123),
        ("output_limit", "OFF", None),
        ("lease", "30min", 1800.0),
        ("timeout", "700ms", 0.7),
        ("lease", "4.1min", 246.0),
        ("lease", "90s", 90.0),
        ("lease", "2h", 7200.0),
        ("lease", "45", 45.0),
        ("lease", 0.5, 0.5),
        ("gpu", "any", "any"),
        ("gpu", "b200+:2", "B200+:2"),
        ("gpu", "none", None),
        ("nproc_per_node", "auto", None),
        ("ranks", "all", None),
        ("ranks", 3, (3,)),
        ("ranks", range(3), (0, 1, 2)),
        ("show", "all", "all"),
        ("show", [1, 0], (0, 1)),
        ("env", {"A": 1, "B": "x"}, (("A", "1"), ("B", "x"))),
        ("env", [("B", "x"), "A=1"], (("A", "1"), ("B", "x"))),
        ("idle", "off", None),
        ("idle", "Auto", "auto"),
        ("idle", "10min", 600.0),
        ("max_lifetime", "off", None),
        ("timeout", "1h", 3600.0),
        ("retry_initial_delay", 0, 0.0),
        ("retry_backoff_coefficient", "1.5", 1.5),
        ("restart", "yes", True),
        ("restart", False, False),
    ],
)
def test_values_are_taken_as_people_write_them(name: str, text: object, value: object) -> None:
    assert parse_values({name: text}, OPTIONS, "here") == {name: value}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--replicas 0", "--replicas 0: a session has 1 to 1024 nodes; try --replicas 1"),
        ("--replicas -3", "--replicas -3: a session has 1 to 1024 nodes; try --replicas 1"),
        ("--replicas 5000", "--replicas 5000: a session has 1 to 1024 nodes; try --replicas 1024"),
        ("--nproc-per-node 65", "--nproc-per-node 65: a node has 1 to 64 ranks; try --nproc-per-node 64"),
        ("--gpu H100:9", "--gpu H100:9: a node has 1 to 8 GPUs; try --gpu H100:8"),
        ("--gpu 'H 100'", "--gpu 'H 100': write TYPE or TYPE:COUNT; try --gpu H100:8"),
        ("--backend mdal", "--backend mdal: choose auto or local or modal; try --backend modal"),
        ("--ranks x", "--ranks x: 'x' names no ranks: write numbers and ranges, as in 0,2-3"),
        ("--env A", "--env: write NAME=VALUE; try --env NCCL_DEBUG=INFO"),
        ("--lease 0", "--lease 0: a lease is longer than 0 and at most 30d; try --lease 30min"),
        ("--timeout 31d", "--timeout 31d: a time limit is longer than 0 and at most 30d; try --timeout 1h"),
        ("--idle soon", "--idle soon: write a time as a number and ms, s, min, h or d; try --idle 30min"),
        ("--retries 11", "--retries 11: a run has 0 to 10 retries; try --retries 10"),
        (
            "--retry-max-delay 2min",
            "--retry-max-delay 2min: a retry waits at most 1s to 60s; try --retry-max-delay 1min",
        ),
        (
            "--retry-backoff-coefficient 0.5",
            "--retry-backoff-coefficient 0.5: a coefficient is a number from 1 to 10; "
            "try --retry-backoff-coefficient 1.0",
        ),
        ("--handle 2nd", "--handle 2nd: write a name that Python takes for a variable; try --handle training"),
        ("--handle class", "--handle class: write a name that Python takes for a variable; try --handle training"),
        ("--output-limit 0", "--output-limit 0: a limit is at least 1 byte; off lifts it; try --output-limit 10MB"),
        ("--replica 4", "unknown option --replica; did you mean --replicas?"),
        ("--nproc_per_node=4", "unknown option --nproc_per_node; did you mean --nproc-per-node?"),
        ("-gpu A100", "unknown option -gpu; did you mean --gpu?"),
        ("-nproc-per-node 2", "unknown option -nproc-per-node; did you mean --nproc-per-node?"),
        ("-n", "--replicas needs a value; try --replicas 4"),
        ("-n 0", "--replicas 0: a session has 1 to 1024 nodes; try --replicas 1"),
        ("--replicas", "--replicas needs a value; try --replicas 4"),
        ("--replicas --restart", "--replicas needs a value; try --replicas 4"),
        ("--restart=1", "--restart takes no value; try --restart"),
        ("4", "unexpected word 4; options start with --, as in --replicas 4"),
        ("--env 'A=1", "a quote on the line is opened and not closed; close it, or put \\ before it"),
    ],
)
def test_a_line_that_cannot_be_read_says_what_to_do(line: str, message: str) -> None:
    assert refusal(line) == message


def test_idle_auto_ends_sessions_on_modal_and_none_on_this_machine() -> None:
    assert (Options().idle_on("modal"), Options().idle_on("local")) == (1800.0, None)
    assert Options(idle=None).idle_on("modal") is None
    assert Options(idle=60.0).idle_on("local") == 60.0


def test_an_unknown_gpu_names_the_nearest_and_keeps_the_count() -> None:
    message = refusal("--gpu a1000:2")
    assert message.startswith("--gpu a1000:2: there is no GPU type a1000; known are T4, L4, ")
    assert message.endswith("; try --gpu A100:2")


@pytest.mark.parametrize("line", ["-n 4", "-n4", "-n=4", "-n 2 --replicas 4"])
def test_n_is_short_for_replicas(line: str) -> None:
    assert parse_line(line, OPTIONS) == {"replicas": 4}
    assert ("--replicas", "-n") in [flags for flags, _ in argument_specs(OPTIONS)]
    assert "| `--replicas/-n N` | `replicas` |" in docs_table()


def test_an_abbreviation_is_not_taken() -> None:
    assert refusal("--rep 4").startswith("unknown option --rep; ")


def test_a_refused_variable_does_not_show_its_value() -> None:
    assert "hunter2" not in refusal("--env 1TOKEN=hunter2")


def test_an_unknown_key_names_its_source_and_the_nearest_key() -> None:
    with pytest.raises(UsageError, match=r"^distributed\(\): unknown option replica; did you mean replicas\?$"):
        parse_values({"replica": 4}, OPTIONS, "distributed()")


def test_a_bad_value_is_spelled_as_its_source_spells_it() -> None:
    with pytest.raises(UsageError, match=r'^a\.toml: gpu="A1000": there is .*; try gpu="A100"$'):
        parse_values({"gpu": "A1000"}, OPTIONS, "a.toml")


@pytest.mark.parametrize("name", ["replicas", "backend", "framework", "lease", "env", "restart"])
def test_none_is_refused_where_it_means_nothing(name: str) -> None:
    with pytest.raises(UsageError, match=f"^here: {name}"):
        parse_values({name: None}, OPTIONS, "here")


def test_the_small_tables_share_the_option_session() -> None:
    assert all(SESSION in table for table in (OPTIONS, STATUS_OPTIONS, LOGS_OPTIONS, RESTART_OPTIONS, STOP_OPTIONS))
    assert parse_line("--rank 0,2-3 --last 5", LOGS_OPTIONS) == {"rank": (0, 2, 3), "last": 5}
    assert parse_line("--all", STOP_OPTIONS, POSITIONALS["modal_stop"]) == {"all": True}
    assert refusal("--replicas 4", STATUS_OPTIONS) == "unknown option --replicas; known are --session"


def test_a_bare_word_stands_for_the_positional_option_and_keeps_its_bounds() -> None:
    assert parse_line("train-1", STOP_OPTIONS, "session") == {"session": "train-1"}
    assert refusal("'train 1'", STOP_OPTIONS, "session").startswith("--session 'train 1': a name has 1 to 64")
    assert refusal("a b", STOP_OPTIONS, "session").startswith("unexpected word b; ")
    assert refusal("a --session b", STOP_OPTIONS, "session").startswith("unexpected word a; ")


@pytest.mark.parametrize("name", TABLES)
def test_argument_specs_feed_argparse(name: str) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    for flags, keywords in argument_specs(TABLES[name]):
        parser.add_argument(*flags, **keywords)
    assert all(option.flag in parser.format_help() for option in TABLES[name])


def test_later_layers_win_and_variables_are_merged_one_by_one() -> None:
    options = resolve(
        {"replicas": 2, "env": (("A", "1"), ("B", "1"))}, {}, {"replicas": 4, "env": (("B", "2"), ("C", "2"))}
    )
    assert options.replicas == 4
    assert options.env == (("A", "1"), ("B", "2"), ("C", "2"))


def test_none_in_a_later_layer_takes_back_an_earlier_value() -> None:
    assert resolve({"gpu": "A100", "output_limit": 5}, parse_line("--gpu none --output-limit off", OPTIONS)).gpu is None


def test_more_ranks_than_counted_gpus_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^--nproc-per-node 9 with --gpu H100:8: .*; try --nproc-per-node 8$"):
        resolve({"gpu": "H100:8"}, {"nproc_per_node": 9})
    assert resolve({"gpu": "H100:8", "nproc_per_node": 4}).shape().nproc_per_node == 4
    assert resolve({"gpu": "A100", "nproc_per_node": 2}).shape().nproc_per_node == 2


@pytest.mark.parametrize(("gpu", "count", "ranks"), [(None, 0, 1), ("A100", 1, 1), ("H100:8", 8, 8), ("any:2", 2, 2)])
def test_a_node_has_one_rank_for_each_gpu(gpu: str | None, count: int, ranks: int) -> None:
    options = Options(gpu=gpu, replicas=3)
    assert options.gpu_count == options.shape().gpu_count == count
    assert options.shape().nproc_per_node == ranks
    assert options.shape().world_size == 3 * ranks


def test_a_shape_reads_as_the_options_that_ask_for_it() -> None:
    assert str(Options().shape()) == "--replicas 1"
    assert str(Shape(replicas=4, nproc_per_node=2, gpu="A100")) == "--replicas 4 --gpu A100 --nproc-per-node 2"
    assert (
        str(Shape(replicas=2, nproc_per_node=8, gpu="H100:8", backend="modal"))
        == "--replicas 2 --gpu H100:8 --backend modal"
    )


def test_a_shape_as_text_keeps_the_values_of_variables_to_itself() -> None:
    text = str(Options(env=(("TOKEN", "hunter2"),)).shape())
    assert "TOKEN" in text
    assert "hunter2" not in text


@given(values)
def test_a_shape_agrees_with_the_options_that_made_it(given_values: dict[str, Any]) -> None:
    try:
        shape = resolve(given_values).shape()
    except UsageError:
        return
    assert differences(given_values, shape) == ()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", ()),
        ("--backend auto --nproc-per-node auto --ranks 0 --lease 1h", ()),
        ("--gpu a100:1 --env A=1", ()),
        ("--gpu none", ("gpu",)),
        ("--gpu A100:2", ("gpu",)),
        ("--env A=2", ("env",)),
        ("--replicas 2 --framework none --backend local", ("replicas", "backend", "framework")),
    ],
)
def test_only_named_options_can_disagree_with_a_shape(line: str, found: tuple[str, ...]) -> None:
    shape = Shape(replicas=4, nproc_per_node=1, gpu="A100", backend="modal", env=(("A", "1"), ("B", "2")))
    assert differences(parse_line(line, OPTIONS), shape) == found


def test_the_docs_table_has_a_row_for_each_option() -> None:
    rows = docs_table().splitlines()[2:]
    assert len(rows) == len(dataclasses.fields(Options)) == len(OPTIONS)
    assert all(f"`{option.name}` | `{option.variable}`" in row for option, row in zip(OPTIONS, rows, strict=True))
    assert all(row.count("|") == 6 for row in rows)


def test_every_default_and_every_example_is_a_value_of_its_option() -> None:
    for table in TABLES.values():
        for option in table:
            if option.default is not None and option.default != ():
                assert option.parse(option.write(option.default)) == option.default
            if option.example:
                option.parse(option.example)


def test_the_table_imports_neither_notebook_nor_torch_nor_modal() -> None:
    code = "import sys, modal_magic.options; print(*{'IPython', 'torch', 'modal', 'zmq'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
