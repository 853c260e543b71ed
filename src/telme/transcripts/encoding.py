"""Bytes of a text file -> text."""

from __future__ import annotations

from telme.errors import TelMEError


def decode_utf8(content: bytes, name: str) -> str:
    """The text, without a byte order mark.

    Raises:
        TelMEError: Not UTF-8; the message names the file, the line and the byte.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte, line = error.object[error.start], error.object.count(b"\n", 0, error.start) + 1
        raise TelMEError(f"{name}:{line}: byte 0x{byte:02x} is not valid UTF-8; save the file as UTF-8") from error
