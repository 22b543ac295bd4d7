# SPDX-License-Identifier: MIT
"""ClientHellos of real clients: OpenSSL's over TLS, aioquic's over QUIC."""

from __future__ import annotations

import ssl

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

VERSION_1, VERSION_2 = 1, 0x6B3343CF


def tls(name: str | None, protocols: int = 0) -> bytes:
    """The record that a client begins with; `protocols`: of ALPN, to make it longer."""
    context = ssl.create_default_context()
    context.check_hostname = name is not None
    if protocols:
        context.set_alpn_protocols([f"{number:0250}" for number in range(protocols)])
    sent = ssl.MemoryBIO()
    with_name = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    try:
        with_name.do_handshake()
    except ssl.SSLWantReadError:
        return sent.read()
    raise AssertionError("nobody answers")


def quic(name: str | None, version: int = VERSION_1, protocols: int = 1) -> list[bytes]:
    """The datagrams that a client begins with."""
    configuration = QuicConfiguration(
        is_client=True,
        server_name=name,
        alpn_protocols=[f"{number:0200}" for number in range(protocols)],
        original_version=version,
        supported_versions=[version],
    )
    connection = QuicConnection(configuration=configuration)
    connection.connect(("192.0.2.1", 443), now=0.0)
    return [datagram for datagram, _ in connection.datagrams_to_send(now=0.0)]
