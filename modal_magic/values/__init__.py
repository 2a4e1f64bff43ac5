"""What the text of an option stands for, and how a value is written as text.

Each parser takes text or a natural value and raises ValueError (`Refused` with a better one) with a sentence that says
what is allowed. Where the value stood parsers do not know; `modal_magic.reading` adds that.
"""

from modal_magic.values.gpus import (
    GPU_TYPES,
    gpu,
    gpu_count,
    same_gpu,
)
from modal_magic.values.quantities import (
    Idle,
    capacity,
    duration,
    idle,
    limit,
    log_size,
    number,
    size,
    whole,
    write_duration,
    write_size,
)
from modal_magic.values.refused import (
    Refused,
)
from modal_magic.values.words import (
    SESSION_NAME,
    Show,
    choice,
    environment,
    name,
    path,
    ranks,
    several,
    show,
    switch,
    text,
    variable,
    write_ranks,
    write_switch,
)

__all__ = [
    "GPU_TYPES",
    "SESSION_NAME",
    "Idle",
    "Refused",
    "Show",
    "capacity",
    "choice",
    "duration",
    "environment",
    "gpu",
    "gpu_count",
    "idle",
    "limit",
    "log_size",
    "name",
    "number",
    "path",
    "ranks",
    "same_gpu",
    "several",
    "show",
    "size",
    "switch",
    "text",
    "variable",
    "whole",
    "write_duration",
    "write_ranks",
    "write_size",
    "write_switch",
]
