"""What a session on Modal costs: the table, the user's own, and the sum while containers are up."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from modal_magic import prices as prices_room
from modal_magic.containers import Containers
from modal_magic.errors import UsageError
from modal_magic.prices import OWN_PRICES, Rates, cost_of, rates_of, rates_on, read_prices
from modal_magic.protocol import Stage
from modal_magic.values import GPU_TYPES
from modal_magic.view.money import cost_line, dollars

TABLE = read_prices({})


def rates(gpu: str | None = None, **containers: object) -> Rates:
    found = rates_of(TABLE, gpu, Containers(**containers))  # type: ignore[arg-type]
    assert found is not None
    return found


def test_a_node_costs_its_gpus_and_what_is_asked_for_beside_them_times_the_factor_of_its_region() -> None:
    own = 0.125 * TABLE.core + 0.125 * TABLE.gibibyte
    assert rates("H100:8").node == pytest.approx((8 * TABLE.gpu["H100"] + own) * TABLE.narrow_region)
    assert rates("H100:8", region="us").node == pytest.approx((8 * TABLE.gpu["H100"] + own) * TABLE.broad_region)
    large = rates(cpu=8.0, memory=32 * 2**30)
    assert large.node == pytest.approx((8 * TABLE.core + 32 * TABLE.gibibyte) * TABLE.narrow_region)


def test_what_modal_does_not_take_away_costs_three_times_as_much_and_the_gateway_is_so() -> None:
    assert rates(nonpreemptible=True).node == pytest.approx(rates().node * 3)
    assert rates("B200").gateway == pytest.approx(rates().node * 3)


def test_of_alternatives_the_dearest_counts_and_it_is_said_that_it_may_cost_less() -> None:
    either = rates("A100,H100")
    assert either.node == rates("H100").node
    assert either.at_most and not rates("H100").at_most


def test_a_gpu_without_a_price_and_this_machine_have_no_cost() -> None:
    assert rates_of(TABLE, "Z9000", Containers()) is None
    assert rates_on("local", "H100", Containers()) is None
    assert rates_on("modal", "H100", Containers()) is not None


def test_the_gpus_that_are_suggested_have_a_price() -> None:
    without = {"any", "B300"}  # what is here; and one whose price was not found
    assert {name.upper() for name in set(GPU_TYPES) - without} <= TABLE.gpu.keys()


def test_own_prices_replace_those_that_they_name(tmp_path: Path) -> None:
    own = tmp_path / "prices.toml"
    own.write_text('date = "2030-01-01"\n[gpu]\nH100 = 1.5\nZ9000 = 9.0\n')
    read = read_prices({OWN_PRICES: str(own)})
    assert (read.date, read.gpu["H100"], read.gpu["Z9000"]) == ("2030-01-01", 1.5, 9.0)
    assert (read.gpu["T4"], read.core) == (TABLE.gpu["T4"], TABLE.core)


@pytest.mark.parametrize("text", [None, "date = [", "gpu = 3", 'core = "much"', "kore = 1.0"])
def test_prices_that_cannot_be_read_are_named(tmp_path: Path, text: str | None) -> None:
    own = tmp_path / "prices.toml"
    if text is not None:
        own.write_text(text)
    with pytest.raises(UsageError, match=r"MODAL_MAGIC_PRICES names .*prices\.toml, which cannot be read as prices"):
        read_prices({OWN_PRICES: str(own)})


def test_a_container_costs_from_the_end_of_its_queue() -> None:
    half = Rates(node=2.0, gateway=0.5, date="2030-01-01")
    stages = [
        Stage("build", 0.0, 100.0),
        Stage("gateway", 100.0, 20.0),
        Stage("queue", 100.0, 500.0, 0),
        Stage("queue", 100.0, None, 1),
        Stage("cold start", 600.0, 30.0, 0),
    ]
    cost = cost_of(half, stages, now=120.0 + 3600.0)
    assert cost.hourly == 2.5
    assert cost.spent == pytest.approx(0.5 + 2.0 * (3720.0 - 600.0) / 3600)
    assert cost_line(cost) == ("costs $2.50 an hour, $2.23 so far (Modal's prices of 2030-01-01, for what is reserved)")


def test_sums_are_told_in_cents() -> None:
    told = [dollars(amount) for amount in (0, 0.00432, 0.0266, 0.211, 1234.5)]
    assert told == ["$0.00", "less than $0.01", "$0.03", "$0.21", "$1,234.50"]


def test_the_table_is_dated() -> None:
    text = Path(prices_room.__file__).with_name("prices.toml").read_text(encoding="utf-8")
    assert len(tomllib.loads(text)["date"].split("-")) == 3
