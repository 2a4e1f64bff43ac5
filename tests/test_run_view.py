"""What is known of a run from its events, and the words for how it failed."""

from __future__ import annotations

from modal_magic import protocol as p
from modal_magic.errors import RankFailed
from modal_magic.notebook.hints import with_hint
from modal_magic.view.failure import failure_lines, failure_sentence, strip_colours, why_killed
from modal_magic.view.model import RankView, RunView

RUN = "a"


def said(rank: int, text: str, stream: p.Stream = "stdout") -> p.Event:
    return p.Output(rank, RUN, stream, text)


def shown(rank: int, data: dict[str, object], kind: str = "display", display_id: str | None = None) -> p.Event:
    return p.Display(rank, RUN, kind, data, {}, display_id)  # type: ignore[arg-type]


# ---- the model -------------------------------------------------------------------------------------------------------


def fold(*events: p.Event) -> RunView:
    view = RunView(RUN)
    for event in events:
        view.apply(event)
    return view


def error(
    message: str = "boom", line: int = 3, name: str = "ValueError", kind: p.ErrorKind = "exception"
) -> p.RemoteError:
    return p.RemoteError(name, message, [f"Cell In[1], line {line}", f"{name}: {message}"], line, kind)


def failed(rank: int, *arguments: object) -> p.Failed:
    return p.Failed(rank, RUN, 1.0, p.Health(), error(*arguments))  # type: ignore[arg-type]


def left(rank: int, where: str = "all_reduce at cell line 4") -> p.Interrupted:
    return p.Interrupted(rank, RUN, 1.0, p.Health(), where)


def submitted(count: int) -> p.Submitted:
    return p.Submitted(RUN, list(range(count)), 1, "pass")


def ended(*culprits: int) -> p.RunEnded:
    return p.RunEnded(RUN, "failed", list(culprits), 1.0)


def test_a_run_goes_from_queued_to_running_to_its_end() -> None:
    view = fold(p.RunQueued(RUN, 2))
    assert (view.status, view.position, view.ended) == ("queued", 2, False)
    view.apply(p.Submitted(RUN, [1, 3], 7, "source"))
    assert (view.status, view.source, list(view.ranks), view.ended) == ("running", "source", [1, 3], False)
    view.apply(p.RunEnded(RUN, "done", [], 2.5, 99))
    assert (view.status, view.seconds, view.withheld, view.ended) == ("done", 2.5, 99, True)


def test_a_rank_goes_from_queued_to_running_to_its_end() -> None:
    view = fold(submitted(4))
    assert {rank.state for rank in view.ranks.values()} == {"queued"}
    for event in (p.Started(0, RUN), p.Started(1, RUN), p.Finished(1, RUN, 0.5, p.Health(), 3), failed(2), left(3)):
        view.apply(event)
    assert [rank.state for rank in view.ranks.values()] == ["running", "done", "failed", "interrupted"]
    assert (view.ranks[1].exit_code, view.ranks[1].seconds) == (3, 0.5)
    assert view.ranks[2].error == error()
    assert view.ranks[3].where == "all_reduce at cell line 4"


def test_what_a_rank_wrote_is_kept_by_stream() -> None:
    view = fold(submitted(1), said(0, "a"), said(0, "b", "stderr"), said(0, "c\n"))
    assert (view.ranks[0].output, view.ranks[0].stdout, view.ranks[0].stderr) == ("abc\n", "ac\n", "b")


def test_the_result_is_the_value_of_the_last_expression() -> None:
    assert RankView(0).result is None
    view = fold(submitted(1), shown(0, {"text/plain": "1"}), shown(0, {"text/plain": "42"}, "result"))
    assert view.ranks[0].result == "42"


def test_events_of_other_runs_change_nothing() -> None:
    view = fold(submitted(1))
    for event in (p.Started(0, "b"), p.RunEnded("b", "done", [], 1.0), p.Notice("hello"), p.Launched(0, 1)):
        view.apply(event)
    assert (view.status, view.ranks[0].state) == ("running", "queued")


def test_a_rank_that_is_lost_after_it_had_ended_had_ended() -> None:
    view = fold(submitted(2), p.Finished(0, RUN, 1.0, p.Health()), p.Lost(0, "was killed"), p.Lost(1, "was killed"))
    assert [rank.state for rank in view.ranks.values()] == ["done", "lost"]
    assert view.ranks[1].lost == "was killed"
    view.apply(p.Lost(7, "was killed"))
    assert list(view.ranks) == [0, 1]


# ---- failures --------------------------------------------------------------------------------------------------------


def test_a_rank_that_raised_is_named_with_its_line_and_the_others_with_where_they_were() -> None:
    view = fold(submitted(4), failed(2, "shape mismatch", 12, "RuntimeError"), left(0), left(1), left(3), ended(2))
    assert failure_sentence(view) == (
        "rank 2 raised RuntimeError: shape mismatch at cell line 12. Ranks 0-1,3 were interrupted in all_reduce at "
        "cell line 4. Variables are kept on all ranks."
    )


def test_ranks_that_were_interrupted_in_different_places_are_told_apart() -> None:
    view = fold(submitted(3), failed(0), left(1, "barrier at cell line 9"), left(2, "before it began"), ended(0))
    assert failure_sentence(view) == (
        "rank 0 raised ValueError: boom at cell line 3. Rank 1 was interrupted in barrier at cell line 9. Rank 2 was "
        "interrupted before it began. Variables are kept on all ranks."
    )


def test_a_rank_whose_node_is_taken_away_is_said_to_go_with_it() -> None:
    told = "rank 1 left the run at cell line 4, for its node is taken away. Rank 0 was interrupted in barrier at cell "
    kept = "line 9. Rank 1 is gone for now; rank 0 keeps its own."
    view = fold(submitted(2), left(1, "cell line 4"), left(0, "barrier at cell line 9"), ended(1))
    assert failure_sentence(view) == told + kept
    view.apply(p.Lost(1, "ended with node 1, which left: preempted", replaced=False))
    assert failure_sentence(view) == told + kept


def test_equal_failures_are_told_once() -> None:
    view = fold(submitted(3), failed(0), failed(2), failed(1), ended(0, 2, 1))
    assert failure_sentence(view) == (
        "ranks 0-2 raised ValueError: boom at cell line 3. Variables are kept on all ranks."
    )
    assert failure_lines("RankFailed", view) == [
        "\x1b[31m[ranks 0-2]\x1b[0m",
        "Cell In[1], line 3",
        "ValueError: boom",
        "",
        "\x1b[31mRankFailed\x1b[0m: ranks 0-2 raised ValueError: boom at cell line 3. Variables are kept on all ranks.",
    ]


def test_different_failures_are_told_in_the_order_of_the_culprits() -> None:
    view = fold(submitted(2), failed(0, "second"), failed(1, "first"), ended(1, 0))
    assert failure_sentence(view) == (
        "rank 1 raised ValueError: first at cell line 3. Rank 0 raised ValueError: second at cell line 3. Variables "
        "are kept on all ranks."
    )
    assert [line for line in failure_lines("RankFailed", view) if line.startswith("\x1b[31m[")] == [
        "\x1b[31m[rank 1]\x1b[0m",
        "\x1b[31m[rank 0]\x1b[0m",
    ]


def test_a_rank_that_was_killed_is_said_to_have_lost_its_variables() -> None:
    view = fold(submitted(3), p.Lost(1, "was killed by SIGKILL"), left(0), left(2), ended(1))
    assert failure_sentence(view) == (
        "rank 1 was killed by SIGKILL. Ranks 0,2 were interrupted in all_reduce at cell line 4. Rank 1 is started "
        "again without variables; ranks 0,2 keep their own."
    )
    assert failure_lines("RankFailed", view) == [f"\x1b[31mRankFailed\x1b[0m: {failure_sentence(view)}"]


def test_a_lost_rank_is_told_before_the_exceptions_that_it_caused() -> None:
    reset = failed(0, "connection reset by peer", 4, "RuntimeError")
    view = fold(submitted(2), reset, p.Lost(1, "crashed with SIGSEGV"), ended(1, 0))
    assert failure_sentence(view) == (
        "rank 1 crashed with SIGSEGV. Rank 0 raised RuntimeError: connection reset by peer at cell line 4. Rank 1 is "
        "started again without variables; rank 0 keeps its own."
    )


def test_ranks_that_only_lost_the_connection_to_a_lost_one_are_told_in_one_sentence() -> None:
    def reset(rank: int, line: int = 4, call: str = "barrier") -> p.Failed:
        noise = f"[pair.cc:553] Connection closed by peer [127.0.0.1]:{rank}. GLHF!"
        return p.Failed(
            rank, RUN, 1.0, p.Health(), p.RemoteError("RuntimeError", noise, ["tb"], line, "communication", call)
        )

    view = fold(submitted(4), reset(3), p.Lost(1, "was killed by SIGKILL"), reset(2), reset(0), ended(1, 3, 2, 0))
    assert failure_sentence(view) == (
        "rank 1 was killed by SIGKILL. Ranks 0,2-3 lost their connection in barrier at cell line 4. Rank 1 is started "
        "again without variables; ranks 0,2-3 keep their own."
    )
    view = fold(submitted(2), failed(1), reset(0, 0, ""), ended(1, 0))
    assert "Rank 0 lost its connection. Variables" in failure_sentence(view)
    assert "Connection closed" in failure_sentence(fold(submitted(1), reset(0), ended(0)))


def test_when_every_rank_is_lost_nothing_is_said_to_be_kept() -> None:
    view = fold(submitted(2), p.Lost(0, "was killed by SIGKILL"), p.Lost(1, "was killed by SIGKILL"), ended(0, 1))
    assert failure_sentence(view).endswith("Ranks 0-1 are started again without variables.")
    assert "keep" not in failure_sentence(view)


def test_a_rank_that_did_not_leave_is_told_of_though_it_is_not_the_cause() -> None:
    late = [p.Lost(rank, "did not leave the cell within 1.5 s and was killed", forced=True) for rank in (1, 2)]
    view = fold(submitted(3), failed(0), *late, ended(0))
    assert failure_sentence(view) == (
        "rank 0 raised ValueError: boom at cell line 3. Ranks 1-2 did not leave the cell within 1.5 s and were killed. "
        "Ranks 1-2 are started again without variables; rank 0 keeps its own."
    )


def test_why_ranks_had_to_be_killed_is_told_once_for_those_of_which_the_same_is_known() -> None:
    stopped, computes = (
        f"did not leave the cell within 1.5 s of the interrupt (last seen at cell line 4; {why}) and was killed"
        for why in ("stopped (SIGSTOP)", "C code computes and holds the GIL")
    )
    one = fold(submitted(3), p.Lost(1, computes, forced=True))
    assert why_killed(one) == "it " + computes.removesuffix(" and was killed")
    two = fold(submitted(3), p.Lost(1, stopped, forced=True), p.Lost(2, stopped, forced=True))
    assert why_killed(two) == "they " + stopped.removesuffix(" and was killed")
    apart = fold(submitted(3), p.Lost(1, stopped, forced=True), p.Lost(2, "was killed by SIGKILL"))
    assert why_killed(apart).endswith("stopped (SIGSTOP)); rank 2 was killed by SIGKILL")
    left_before = fold(submitted(2), left(1), p.Lost(1, "was killed by SIGKILL"))
    assert why_killed(left_before) == "it was killed by SIGKILL"


def test_a_long_message_is_cut_to_its_first_line() -> None:
    view = fold(submitted(1), failed(0, "\n first \nsecond", 0), ended(0))
    assert failure_sentence(view) == "rank 0 raised ValueError: first. Variables are kept on all ranks."
    view = fold(submitted(1), failed(0, "", 0), ended(0))
    assert failure_sentence(view) == "rank 0 raised ValueError. Variables are kept on all ranks."
    view = fold(submitted(1), failed(0, "x" * 5000), ended(0))
    assert len(failure_sentence(view)) < 400


def test_a_run_that_was_refused_is_told_in_the_words_of_the_refusal() -> None:
    view = RunView(RUN, "failed", refusal="the session is closing")
    assert failure_sentence(view) == "the session is closing"
    unsent = fold(p.RunEnded(RUN, "failed", [3], 0.0, reason="rank 3 is lost"))
    assert (unsent.refusal, failure_sentence(unsent)) == ("rank 3 is lost", "rank 3 is lost")
    assert failure_sentence(fold(ended(3))) == "the run ended without a word from its ranks"


def test_of_a_name_that_only_the_notebook_has_it_is_said_where_to_define_it() -> None:
    def missing(name: str, kind: str = "NameError") -> RankFailed:
        view = fold(submitted(2), *(failed(rank, f"name '{name}' is not defined", 2, kind) for rank in (0, 1)))
        return with_hint(RankFailed("failed.", view, ("lines",)), {"x"})

    hint = "The notebook has `x`, its ranks do not: define it in a %%modal_distributed cell."
    assert (str(missing("x")), missing("x").rendered) == (f"failed. {hint}", ("lines", hint))
    assert [str(missing("y")), str(missing("x", "ValueError"))] == ["failed.", "failed."]


def test_colours_can_be_taken_out_of_a_text() -> None:
    assert strip_colours("\x1b[31mred\x1b[0m \x1b[1;38;5;9mbold\x1b[m plain") == "red bold plain"
