# SPDX-License-Identifier: Apache-2.0
"""Just enough of the CQL binary protocol, version 4, to ask a node whether it serves.

The driver would do, but takes a second to connect, keeps threads, and logs each attempt.
"""

from __future__ import annotations

import socket
import ssl
import struct
from pathlib import Path
from typing import IO

STARTUP, QUERY, AUTH_RESPONSE = 0x01, 0x07, 0x0F
READY, AUTHENTICATE, RESULT, AUTH_SUCCESS = 0x02, 0x03, 0x08, 0x10
ONE, ALL = 0x0001, 0x0005
LOGIN = b"\0cassandra\0cassandra"
HEADER = struct.Struct(">BBhBi")
MAX_FRAME_BYTES = 1 << 20


def succeeds(
    where: tuple[str, int],
    statement: str,
    consistency: int = ONE,
    ca: Path | None = None,
    timeout_s: float = 5.0,
) -> bool:
    """Whether a node answers a statement with a result, within the time for each step.

    With `ca` by TLS, whose certificate must come from there. A login that is asked for is
    made as `cassandra`.
    """
    try:
        with socket.create_connection(where, timeout_s) as plain:
            if ca is None:
                return _asks(plain, statement, consistency)
            context = ssl.create_default_context(cafile=ca)
            with context.wrap_socket(plain, server_hostname=where[0]) as secure:
                return _asks(secure, statement, consistency)
    except (OSError, struct.error):
        return False


def _asks(connection: socket.socket, statement: str, consistency: int) -> bool:
    with connection.makefile("rb") as replies:
        options = struct.pack(">h", 1) + _string("CQL_VERSION") + _string("3.0.0")
        opcode = _exchange(connection, replies, STARTUP, options)
        if opcode == AUTHENTICATE:
            token = struct.pack(">i", len(LOGIN)) + LOGIN
            opcode = _exchange(connection, replies, AUTH_RESPONSE, token)
        if opcode not in (READY, AUTH_SUCCESS):
            return False
        text = statement.encode()
        query = struct.pack(">i", len(text)) + text + struct.pack(">HB", consistency, 0)
        return _exchange(connection, replies, QUERY, query) == RESULT


def _exchange(connection: socket.socket, replies: IO[bytes], opcode: int, body: bytes) -> int:
    """Sends a frame; the opcode of the answer."""
    connection.sendall(HEADER.pack(4, 0, 0, opcode, len(body)) + body)
    _, _, _, answer, size = HEADER.unpack(replies.read(HEADER.size))
    if not 0 <= size <= MAX_FRAME_BYTES:
        return 0
    return int(answer) if len(replies.read(size)) == size else 0


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()
