# SPDX-License-Identifier: MIT
"""What a QUIC client says in its first packets: they are encrypted by keys that anybody can derive (RFC 9001, 5).

Own code around `cryptography`: aioquic, which has it all, keeps what is needed here to itself.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterator
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from pyegress.names.message import MalformedError

MOST_PACKETS = 8
"""Of one datagram, or of some that were given to the kernel at once."""
MOST_FRAMES = 256
"""Of one packet; clients that shuffle theirs send some dozens."""
_LONG_HEADER = 0x80
_KEY_BYTES, _IV_BYTES, _SAMPLE_BYTES, _MOST_ID_BYTES = 16, 12, 16, 20
_PADDING, _PING, _ACK, _ACK_ECN, _CRYPTO = 0, 1, 2, 3, 6


class _Version(NamedTuple):
    initial: int
    """The type of packet, as the first byte has it."""
    salt: bytes
    label: bytes


_VERSIONS = {
    1: _Version(0x00, bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"), b"quic"),
    0x6B3343CF: _Version(0x10, bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"), b"quicv2"),
}
"""RFC 9001, 5.2; RFC 9369, 3."""


class Initial(NamedTuple):
    """A packet as it was sent."""

    version: int
    destination: bytes
    """Connection id that the client chose, if it is its first."""
    packet: bytes
    """From its first byte to its last."""
    number_at: int
    """Where the packet's number is, still protected."""


class Keys:
    """What protects the client's Initial packets of one connection."""

    def __init__(self, version: int, destination: bytes) -> None:
        constants = _VERSIONS[version]
        secret = _expand(hmac.digest(constants.salt, destination, "sha256"), b"client in", 32)
        self.key = _expand(secret, constants.label + b" key", _KEY_BYTES)
        self.iv = _expand(secret, constants.label + b" iv", _IV_BYTES)
        self.header = _expand(secret, constants.label + b" hp", _KEY_BYTES)

    def payload(self, initial: Initial) -> bytes | None:
        """The frames of a packet; None where it is protected by others."""
        packet, at = initial.packet, initial.number_at
        sample = packet[at + 4 : at + 4 + _SAMPLE_BYTES]
        if len(sample) < _SAMPLE_BYTES:
            raise MalformedError("malformed")
        mask = Cipher(AES(self.header), ECB()).encryptor().update(sample)
        first = packet[0] ^ mask[0] & 0x0F
        end = at + (first & 3) + 1
        number = bytes(byte ^ bits for byte, bits in zip(packet[at:end], mask[1:], strict=False))
        # The first packets have small numbers, which are written whole.
        nonce = int.from_bytes(self.iv, "big") ^ int.from_bytes(number, "big")
        try:
            return AESGCM(self.key).decrypt(
                nonce.to_bytes(_IV_BYTES, "big"), packet[end:], bytes([first]) + packet[1:at] + number
            )
        except InvalidTag:
            return None


def initials(datagram: bytes) -> Iterator[Initial]:
    """The Initial packets at the beginning of a datagram; MalformedError where lengths don't fit."""
    at = 0
    for _ in range(MOST_PACKETS):
        # Some fill a datagram up behind the last packet.
        at = len(datagram) - len(datagram[at:].lstrip(b"\0"))
        if at >= len(datagram) or not datagram[at] & _LONG_HEADER:
            return
        try:
            found, at = _initial(datagram, at)
        except (struct.error, IndexError) as error:
            raise MalformedError("malformed") from error
        if found is not None:
            yield found


def crypto(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """The pieces of the handshake in a packet's frames, and where each belongs; MalformedError for other frames."""
    at = 0
    for _ in range(MOST_FRAMES):
        # Mostly padding, a byte each.
        at = len(payload) - len(payload[at:].lstrip(b"\0"))
        if at >= len(payload):
            return
        kind, at = payload[at], at + 1
        try:
            if kind == _CRYPTO:
                offset, at = _number(payload, at)
                size, at = _number(payload, at)
                if at + size > len(payload):
                    raise MalformedError("malformed")
                yield offset, payload[at : at + size]
                at += size
            elif kind in (_ACK, _ACK_ECN):
                at = _after_ack(payload, at, kind == _ACK_ECN)
            elif kind != _PING:
                return  # it closes the connection, or isn't allowed here
        except IndexError as error:
            raise MalformedError("malformed") from error
    raise MalformedError("too much work")


def _initial(datagram: bytes, start: int) -> tuple[Initial | None, int]:
    """A packet with a long header, None if it is no Initial, and where the next begins."""
    version, id_bytes = struct.unpack_from("!IB", datagram, start + 1)
    constants = _VERSIONS.get(version)
    if constants is None or id_bytes > _MOST_ID_BYTES:
        return None, len(datagram)
    at = start + 6
    destination = datagram[at : at + id_bytes]
    at += id_bytes
    at += 1 + datagram[at]
    is_initial = datagram[start] & 0x30 == constants.initial
    if is_initial:
        token, at = _number(datagram, at)
        at += token
    size, at = _number(datagram, at)
    if at + size > len(datagram):
        raise MalformedError("malformed")
    if not is_initial:
        return None, at + size
    return Initial(version, destination, datagram[start : at + size], at - start), at + size


def _after_ack(payload: bytes, at: int, has_ecn: bool) -> int:
    _, at = _number(payload, at)
    _, at = _number(payload, at)
    ranges, at = _number(payload, at)
    for _ in range(1 + 2 * min(ranges, MOST_FRAMES) + 3 * has_ecn):
        _, at = _number(payload, at)
    return at


def _number(data: bytes, at: int) -> tuple[int, int]:
    """One of variable length (RFC 9000, 16), and where what follows it begins; IndexError where it isn't whole."""
    end = at + (1 << (data[at] >> 6))
    if end > len(data):
        raise IndexError
    return int.from_bytes(data[at:end], "big") & (1 << 8 * (end - at) - 2) - 1, end


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label (RFC 8446, 7.1) for what fits one block."""
    label = b"tls13 " + label
    info = struct.pack("!HB", size, len(label)) + label + b"\0"
    return hmac.digest(secret, info + b"\1", "sha256")[:size]
