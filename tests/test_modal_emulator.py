"""The emulator by itself: what of Modal a plain app meets there that sessions do not always meet."""

from __future__ import annotations

import socket
import ssl
import time

import modal
import pytest

from tests.modal_emulator.handle import Handle
from tests.support.eventually import until
from tests.support.namespaces import possible

pytestmark = [
    pytest.mark.patient,
    pytest.mark.namespaces,
    pytest.mark.skipif(not possible(), reason="network namespaces need root and iproute2 on Linux"),
]


def test_containers_reach_each_other_in_their_region_only_and_failed_inputs_are_retried(modal_service: Handle) -> None:
    app = modal.App("places")

    def listen() -> None:
        """Say where a port is, and take whoever comes."""
        import socket

        address = socket.getaddrinfo("i6pn.modal.local", None, socket.AF_INET6)[0][4][0]
        with socket.create_server((address, 0), family=socket.AF_INET6) as server:
            modal.Dict.from_name("places", create_if_missing=True)["at"] = server.getsockname()[:2]
            while True:
                server.accept()[0].close()

    def reaches(at: tuple[str, int]) -> bool:
        """Whether one can connect there; a first time fails for no reason."""
        import socket

        if modal.Dict.from_name("places").put("failed", True, skip_if_exists=True):
            raise RuntimeError("try again")
        try:
            socket.create_connection(at, 2.0).close()
        except OSError:
            return False
        return True

    once_more = modal.Retries(max_retries=1, initial_delay=0.0)
    there = app.function(serialized=True, i6pn=True, region="us-east", name="listen")(listen)
    near = app.function(serialized=True, i6pn=True, region="us-east", name="near", retries=once_more)(reaches)
    far = app.function(serialized=True, i6pn=True, region="eu-west", name="far")(reaches)
    modal_service.ask("set", settings={"delays": {"near": 1.5}})
    try:
        with modal_service.reached(), app.run():
            call = there.spawn()
            places = modal.Dict.from_name("places", create_if_missing=True)
            at = until(lambda: places.get("at"))
            began = time.monotonic()
            assert near.remote(at) is True
            assert time.monotonic() - began > 1.5 and places.get("failed")
            assert far.remote(at) is False
            call.cancel()
    finally:
        modal_service.ask("set", settings={"delays": {}})


def test_large_values_travel_as_blobs_and_a_tunnel_can_have_tls(modal_service: Handle) -> None:
    app = modal.App("large")

    def echo(data: bytes) -> bytes:
        """Give back the data through a tunnel, and as the result."""
        import socket

        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with modal.forward(port) as tunnel:
                modal.Dict.from_name("large", create_if_missing=True)["at"] = tunnel.tls_socket
                taken = server.accept()[0]
                taken.sendall(b"through TLS")
                taken.close()
        return data * 2

    there = app.function(serialized=True, name="echo")(echo)
    data = bytes(range(256)) * 16_000
    with modal_service.reached(), app.run():
        call = there.spawn(data)
        places = modal.Dict.from_name("large", create_if_missing=True)
        at = until(lambda: places.get("at"))
        trusting = ssl.create_default_context(cadata=modal_service.ask("certificate"))
        with trusting.wrap_socket(socket.create_connection(at), server_hostname=at[0]) as tunnel:
            assert tunnel.recv(100) == b"through TLS"
        assert call.get(30) == data * 2


def test_a_class_has_parameters_and_options_of_its_own_for_each_use_and_its_output_is_followed(
    modal_service: Handle, capsys: pytest.CaptureFixture[str]
) -> None:
    app = modal.App("shapes")

    class Square:
        side: int = modal.parameter()

        @modal.method()
        def area(self) -> tuple[int, str | None]:
            """The area, and a variable. Where that is set, a first time fails for no reason."""
            import os

            colour = os.environ.get("COLOUR")
            if colour and modal.Dict.from_name("shapes", create_if_missing=True).put("tried", 1, skip_if_exists=True):
                raise RuntimeError("try again")
            print(f"the side is {self.side}")
            return self.side**2, colour

    Square.__annotations__["side"] = int  # Modal wants the type, and has its text from this module
    square = app.cls(serialized=True)(Square)
    twice = app.function(serialized=True, name="twice", max_containers=2)(lambda number: 2 * number)
    with modal_service.reached(), modal.enable_output(), app.run():
        red = square.with_options(env={"COLOUR": "red"}, retries=modal.Retries(max_retries=1, initial_delay=0.0))
        assert red(side=3).area.remote() == (9, "red")
        assert square(side=2).area.remote() == (4, None)
        assert list(twice.map(range(20))) == list(range(0, 40, 2))
        with pytest.raises(modal.exception.InvalidError, match="Unknown GPU type 'ANY'"):
            square.with_options(gpu="any")(side=1).area.remote()
    told = capsys.readouterr().out
    assert told.count("the side is 3\n") == told.count("the side is 2\n") == 1
