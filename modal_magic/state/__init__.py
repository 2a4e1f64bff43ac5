"""The session's state machine, pure: stimuli in, effects out; no clock, no socket, no thread."""

from modal_magic.state.active_run import ActiveRun
from modal_magic.state.closing import CLOSING_SECONDS
from modal_magic.state.group import ATTEMPTS, GROUP_SECONDS
from modal_magic.state.lease import Lease
from modal_magic.state.machine import Machine
from modal_magic.state.settings import Settings
from modal_magic.state.stalls import LOOK_SECONDS, PATIENCE_SECONDS, StallWatch, find_stall
from modal_magic.state.startup import Startup
from modal_magic.state.tables import (
    BUSY,
    FREE,
    RANK_TABLE,
    SESSION_TABLE,
    RankState,
    SessionState,
    UnexpectedEvent,
)
from modal_magic.state.truth import Rank
from modal_magic.state.words import (
    Answer,
    Asked,
    Attendance,
    Effect,
    End,
    Fired,
    Log,
    NodeGone,
    NodeJoined,
    SetTimer,
    Stimulus,
    Tell,
)

__all__ = [
    "ATTEMPTS",
    "BUSY",
    "CLOSING_SECONDS",
    "FREE",
    "GROUP_SECONDS",
    "LOOK_SECONDS",
    "PATIENCE_SECONDS",
    "RANK_TABLE",
    "SESSION_TABLE",
    "ActiveRun",
    "Answer",
    "Asked",
    "Attendance",
    "Effect",
    "End",
    "Fired",
    "Lease",
    "Log",
    "Machine",
    "NodeGone",
    "NodeJoined",
    "Rank",
    "RankState",
    "SessionState",
    "SetTimer",
    "Settings",
    "StallWatch",
    "Startup",
    "Stimulus",
    "Tell",
    "UnexpectedEvent",
    "find_stall",
]
