"""What the containers of a session cost, by a dated table of prices that the user can replace."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from modal_magic.containers import Containers
from modal_magic.errors import UsageError
from modal_magic.protocol import Stage

__all__ = ["OWN_PRICES", "Cost", "Rates", "cost_of", "rates_of", "rates_on", "read_prices"]

OWN_PRICES = "MODAL_MAGIC_PRICES"
"""The variable that names the user's own table."""
TABLE = Path(__file__).with_name("prices.toml")
GIBIBYTE = 2**30


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table, as `prices.toml` explains it."""

    date: str
    core: float
    gibibyte: float
    nonpreemptible: float
    broad_region: float
    narrow_region: float
    least_cores: float
    least_gibibytes: float
    gpu: dict[str, float]


class Rates(msgspec.Struct, frozen=True):
    """Dollars an hour for each node's container and for the gateway's, by prices of `date`.

    `at_most` says that the GPUs that are found may cost less.
    """

    node: float
    gateway: float
    date: str
    at_most: bool = False


class Cost(msgspec.Struct, frozen=True):
    """What a session costs, in dollars: an hour, of the containers that are up now, and since its start.

    `date` is that of the prices. `at_most` says that the GPUs that were found may cost less.
    """

    hourly: float
    spent: float
    date: str
    at_most: bool


def read_prices(environment: Mapping[str, str] = os.environ) -> Prices:
    """The table, with the user's own prices over ours. Raises UsageError where these cannot be read."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    given = environment.get(OWN_PRICES)
    if not given:
        return msgspec.convert(table, Prices)
    try:
        own = tomllib.loads(Path(given).expanduser().read_text(encoding="utf-8"))
        gpus = {**table["gpu"], **own.get("gpu", {})}
        return msgspec.convert({**table, **own, "gpu": gpus}, Prices)
    except (OSError, ValueError, TypeError, msgspec.ValidationError) as error:
        raise UsageError(f"{OWN_PRICES} names {given}, which cannot be read as prices: {error}") from None


def rates_on(backend: str, gpu: str | None, containers: Containers) -> Rates | None:
    """What a session of this backend pays; None where nothing is billed. Raises UsageError as `read_prices` does."""
    return rates_of(read_prices(), gpu, containers) if backend == "modal" else None


def rates_of(prices: Prices, gpu: str | None, containers: Containers) -> Rates | None:
    """What containers of this kind cost; None where the table lacks one of the GPUs."""
    alternatives = [kind.partition(":") for kind in gpu.split(",")] if gpu else []
    if any(name.upper() not in prices.gpu for name, _, _ in alternatives):
        return None
    gpus = [prices.gpu[name.upper()] * int(count or 1) for name, _, count in alternatives] or [0.0]
    cores = max(containers.cpu or 0.0, prices.least_cores)
    memory = max((containers.memory or 0) / GIBIBYTE, prices.least_gibibytes)
    region = prices.narrow_region if "-" in containers.region else prices.broad_region
    node = (max(gpus) + _own(prices, cores, memory)) * region
    return Rates(
        node=node * prices.nonpreemptible if containers.nonpreemptible else node,
        gateway=_own(prices, prices.least_cores, prices.least_gibibytes) * region * prices.nonpreemptible,
        date=prices.date,
        at_most=min(gpus) < max(gpus),
    )


def _own(prices: Prices, cores: float, gibibytes: float) -> float:
    return cores * prices.core + gibibytes * prices.gibibyte


def cost_of(rates: Rates, stages: Iterable[Stage], now: float) -> Cost:
    """What a session has cost up to `now` (seconds since 1970), by the stages of its start.

    A container costs from the end of its queue on. The gateway is up as soon as anybody hears of a stage.
    """
    up = [
        (rates.gateway if stage.name == "gateway" else rates.node, stage.began + stage.seconds)
        for stage in stages
        if stage.name in ("gateway", "queue") and stage.seconds is not None
    ]
    spent = sum(hourly * max(0.0, now - since) / 3600 for hourly, since in up)
    return Cost(sum(hourly for hourly, _ in up), spent, rates.date, rates.at_most)
