"""Which addresses are public, and which hosts a pattern lets through."""

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underpaint.labelstudio.addresses import HostPolicy, NotAllowed, is_public


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::10.0.0.1",
        "2002:a00:1::1",
        "2001:db8::1",
        "100::1",
    ],
)
def test_addresses_inside_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:4700::1111", "::ffff:93.184.216.34", "64:ff9b::8.8.8.8"])
def test_addresses_outside_are_public(address: str) -> None:
    assert is_public(address)


@given(st.integers(0, 2**32 - 1))
def test_a_mapped_address_is_as_public_as_the_one_it_carries(number: int) -> None:
    inner = ipaddress.IPv4Address(number)
    assert is_public(f"::ffff:{inner}") == is_public(f"64:ff9b::{inner}") == is_public(str(inner))


@pytest.mark.parametrize(
    ("patterns", "host", "port", "allowed"),
    [
        (["*"], "127.0.0.1", 80, False),
        (["*"], "8.8.8.8", 80, True),
        (["*"], "localhost", 80, False),
        (["*"], "2130706433", 80, False),  # 127.0.0.1 as one number, as inet_aton reads it.
        (["*"], "::ffff:127.0.0.1", 80, False),
        (["localhost"], "LOCALHOST", 80, True),
        (["localhost:81"], "localhost", 80, False),
        (["local*:80"], "localhost", 80, True),
        (["127.0.0.*"], "127.0.0.1", 9000, True),
        (["[::1]:9000"], "::1", 9000, True),
        (["::1"], "::1", 9000, True),
        (["*", "127.0.0.1:9000"], "127.0.0.1", 9000, True),
        (["*", "127.0.0.1:9000"], "127.0.0.1", 9001, False),
        (["8.8.8.8"], "8.8.4.4", 80, False),
        ([], "8.8.8.8", 80, False),
    ],
)
def test_hosts_are_allowed_by_pattern(patterns: list[str], host: str, port: int, allowed: bool) -> None:
    policy = HostPolicy(patterns)
    if allowed:
        assert policy.addresses(host, port)
    else:
        with pytest.raises(NotAllowed, match=f"{host}.*UNDERPAINT_ALLOWED_HOSTS"):
            policy.addresses(host, port)


@pytest.mark.parametrize(
    ("pattern", "host", "allowed"),
    [
        ("müller.example", "xn--mller-kva.example", True),
        ("xn--mller-kva.example", "MÜLLER.example", True),
        ("*.Müller.example:81", "bilder.xn--mller-kva.example", True),
        ("*.müller.example:82", "bilder.xn--mller-kva.example", False),
        ("straße.example", "xn--strae-oqa.example", True),
        ("mü*.example", "xn--mller-kva.example", False),
    ],
)
def test_a_name_in_other_letters_is_one_name_however_it_is_written(
    pattern: str, host: str, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loopback = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 81))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [loopback])
    if allowed:
        assert HostPolicy([pattern]).addresses(host, 81) == ["127.0.0.1"]
        assert HostPolicy([], [(pattern.partition(":")[0].replace("*", "bilder"), 81)]).addresses(host, 81)
    else:
        with pytest.raises(NotAllowed):
            HostPolicy([pattern]).addresses(host, 81)
