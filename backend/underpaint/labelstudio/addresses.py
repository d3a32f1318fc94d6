"""Which hosts images may come from, and the connections that reach no others and outlive no deadline."""

import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import httpcore
import httpx

from underpaint.labelstudio.decoding import ImageError

# ::ffff:0:0/96 (RFC 4291) and 64:ff9b::/96 (RFC 6052, NAT64) carry an IPv4 address in their last 32 bits.
_CARRIES_IPV4 = (ipaddress.IPv6Network("::ffff:0:0/96"), ipaddress.IPv6Network("64:ff9b::/96"))
# 2000::/3 is all the unicast space that is assigned (RFC 4291); 2002::/16 tunnels to any IPv4 address (RFC 3056).
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")


class NotAllowed(ImageError):
    """The host is not among UNDERPAINT_ALLOWED_HOSTS."""


def is_public(address: str) -> bool:
    """Whether an IPv4 or IPv6 address is one of the open internet's.

    Loopback, private, shared, link-local, multicast and reserved addresses are not, however they are written.

    Raises:
        ValueError: if ``address`` is not an IP address.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if not any(ip in network for network in _CARRIES_IPV4):
            return ip.is_global and ip in _GLOBAL_UNICAST and ip not in _SIX_TO_FOUR
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


class HostPolicy:
    """The hosts that may be fetched from.

    Args:
        patterns: ``host`` or ``host:port``, with ``*`` as wildcard. The pattern ``*`` covers hosts with public
            addresses only; all others let their hosts through wherever these resolve to.
        always: hosts and ports that need no pattern: Label Studio's own.
    """

    def __init__(self, patterns: Iterable[str], always: Iterable[tuple[str, int]] = ()) -> None:
        self._patterns = [_ascii(pattern.lower()) for pattern in patterns]
        self._always = frozenset((_plain(host), port) for host, port in always)

    def addresses(self, host: str, port: int) -> list[str]:
        """The IP addresses of ``host``, in the resolver's order, if it may be fetched from.

        Raises:
            NotAllowed: if it may not.
            OSError, UnicodeError: if the name doesn't resolve.
        """
        named = self._is_named(host, port)
        if not named and "*" not in self._patterns:
            raise NotAllowed(
                f"{host}:{port} is not an allowed host; if it should be, add it to UNDERPAINT_ALLOWED_HOSTS"
            )
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
        private = [address for address in addresses if not is_public(address)]
        if private and not named:
            raise NotAllowed(
                f"{host}:{port} has the address {private[0]}, which is not public, and * covers public ones only; "
                f"if it should be fetched from, add {host}:{port} to UNDERPAINT_ALLOWED_HOSTS"
            )
        return addresses

    def _is_named(self, host: str, port: int) -> bool:
        host = _plain(host)
        names = (host, f"{host}:{port}", f"[{host}]:{port}")
        return (host, port) in self._always or any(
            pattern in names or any(fnmatchcase(name, pattern) for name in names)
            for pattern in self._patterns
            if pattern != "*"
        )


def _plain(host: str) -> str:
    return _ascii(host.lower().rstrip(".").strip("[]"))


def _ascii(host: str) -> str:
    """A host, or a pattern of hosts, with its parts as DNS has them (IDNA, RFC 5891): ``xn--mller-kva`` for müller.

    A part that is no name, for it joins a wildcard to letters that aren't ASCII, is left as it is.
    """
    return re.sub(r"[^.:]*[^\x00-\x7f.:][^.:]*", _idna, host)


def _idna(part: re.Match[str]) -> str:
    try:
        return httpx.URL(scheme="http", host=part[0]).raw_host.decode("ascii")
    except httpx.InvalidURL:
        return part[0]


class GuardedBackend(httpcore.SyncBackend):
    """Network backend for httpcore that resolves a name once, checks every address, and connects to just these.

    Nothing is sent to an address that fails the check, so a name that changes its address meanwhile (DNS rebinding)
    gains nothing. All waiting ends at ``deadline`` (``time.monotonic``), however the server spreads its bytes; only
    the resolver keeps a time limit of its own.
    """

    def __init__(self, policy: HostPolicy, deadline: float) -> None:
        self._policy = policy
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            addresses = self._policy.addresses(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"the name {host} doesn't resolve") from error
        return _Guarded(self._connect_first(addresses, port, local_address, socket_options), self._deadline)

    def _connect_first(
        self, addresses: Sequence[str], port: int, local_address: str | None, options: Iterable[Any] | None
    ) -> httpcore.NetworkStream:
        *others, last = addresses
        for address in others:
            try:
                return super().connect_tcp(address, port, _left(self._deadline), local_address, options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return super().connect_tcp(last, port, _left(self._deadline), local_address, options)


class _Guarded(httpcore.NetworkStream):
    """A connection whose every wait ends at the deadline."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._stream.read(max_bytes, _left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._stream.write(buffer, _left(self._deadline))

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        return _Guarded(self._stream.start_tls(ssl_context, server_hostname, _left(self._deadline)), self._deadline)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float) -> float:
    """Seconds until ``deadline``; raises httpcore.ReadTimeout if there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the time for this image is used up")
    return left
