"""A node that is cut off: noticed in time, the others are freed, and it comes back with its variables (namespaces)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest

from modal_magic import RankFailed, Session, UsageError
from modal_magic.backends.local import Host, LocalBackend
from modal_magic.sessions.resources import Resources
from modal_magic.sessions.run import Run
from modal_magic.view.model import RankView
from tests.support.eventually import until
from tests.support.namespaces import possible, set_link, two_hosts
from tests.support.processes import gone
from tests.support.training import train

pytestmark = [
    pytest.mark.namespaces,
    pytest.mark.skipif(not possible(), reason="network namespaces need root and iproute2 on Linux"),
]

ALL_REDUCE = "total = torch.ones(1); dist.all_reduce(total); kept, int(total)"


@dataclass(frozen=True, slots=True)
class Cut:
    """A session of two nodes with two ranks each, and the host of the second."""

    session: Session
    host: Host

    def ranks(self) -> list[psutil.Process]:
        """The processes of the ranks."""
        return [psutil.Process(rank.pid) for rank in self.session.ready().status().ranks]

    def agent(self) -> psutil.Process:
        """The agent of the second node: the one child of its zygote that is no rank."""
        ranks = self.ranks()
        zygote = ranks[2].parent()
        assert zygote is not None
        (agent,) = [child for child in zygote.children() if child not in ranks]
        return agent


@pytest.fixture
def cut(nothing_left: None) -> Iterator[Cut]:
    with two_hosts() as hosts:
        own = Resources({"local": LocalBackend(hosts)})
        try:
            with Session(resources=own, replicas=2, nproc_per_node=2, backend="local") as session:
                yield Cut(session, hosts[1])
        finally:
            own.close()


def results(run: Run) -> list[str | None]:
    return [run.ranks[rank].result for rank in sorted(run.ranks)]


@pytest.mark.parametrize("how", ["the link is down", "the agent is stopped"])
def test_a_cut_node_is_named_and_comes_back_with_its_variables(cut: Cut, how: str) -> None:
    agent = cut.agent()
    run = train(cut.session)
    began = time.monotonic()
    set_link(cut.host, "down") if how == "the link is down" else agent.suspend()
    with pytest.raises(RankFailed, match="ranks 2-3 went silent with node 1, which stopped answering"):
        run.wait(10)
    assert time.monotonic() - began < 3
    alone = cut.session.run("kept, dist.is_initialized()", ranks=[0, 1]).wait(30)
    assert results(alone) == ["(0, False)", "(1, False)"]
    set_link(cut.host, "up") if how == "the link is down" else agent.resume()
    told = ""
    while "node 1 answers again: ranks 2-3 kept their variables" not in told:
        told = cut.session.notices.get(timeout=20)
    until(lambda: cut.session.state == "ready")
    assert results(cut.session.run(ALL_REDUCE).wait(30)) == [f"({rank}, 4)" for rank in range(4)]


def test_what_the_ranks_of_a_cut_node_print_meanwhile_is_not_lost(cut: Cut) -> None:
    run = cut.session.run(
        "import time\nprint('begun')\nfor step in range(10**6):\n    print(step)\n    time.sleep(0.005)"
    )
    while "begun" not in run.ranks.get(3, RankView(3)).output:
        run.events(1.0)
    set_link(cut.host, "down")
    with pytest.raises(RankFailed):
        run.wait(10)
    set_link(cut.host, "up")
    told = ""
    while "node 1 answers again" not in told:
        told = cut.session.notices.get(timeout=20)
    until(lambda: cut.session.state == "ready")
    lines = [text for _, _, text in cut.session.logs([3], run=run.id)]
    assert lines == ["begun", *map(str, range(len(lines) - 1))]
    assert len(lines) > len(run.ranks[3].output.splitlines())


def test_a_node_that_stays_away_ends_itself_and_the_others_go_on(cut: Cut) -> None:
    away = [rank.pid for rank in cut.ranks()[2:]] + [cut.agent().pid]
    run = train(cut.session)
    set_link(cut.host, "down")
    with pytest.raises(RankFailed):
        run.wait(10)
    assert gone(away)
    set_link(cut.host, "up")
    assert results(cut.session.run("kept", ranks=[0, 1]).wait(30)) == ["0", "1"]

    def refusal() -> str:
        with pytest.raises(UsageError) as refused:
            cut.session.run("kept").wait(30)
        return str(refused.value)

    until(lambda: "ranks 2-3 are lost: --ranks names others" in refusal())
    later = Session.attach(cut.session.name)
    assert later.unseen() == []
    later.detach()


def test_an_agent_that_is_killed_is_replaced_and_its_ranks_start_anew(cut: Cut) -> None:
    agent = cut.agent()
    run = train(cut.session)
    began = time.monotonic()
    os.kill(agent.pid, signal.SIGKILL)
    cause = "ranks 2-3 ended with the agent of node 1, which was killed by SIGKILL"
    with pytest.raises(RankFailed, match=cause):
        run.wait(10)
    assert time.monotonic() - began < 2
    cut.session.run("import torch, torch.distributed as dist\nkept = globals().get('kept')").wait(30)
    assert results(cut.session.run(ALL_REDUCE).wait(30)) == ["(0, 4)", "(1, 4)", "(None, 4)", "(None, 4)"]
