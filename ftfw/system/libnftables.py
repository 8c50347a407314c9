"""Calls libnftables, the library behind nft: it carries out commands in nft's language within this process.

A table with `flags owner` belongs to the netlink socket of the `Nft` that made it: the kernel lets no other socket
change the table, and removes it when that socket is closed, however its process ends (nf_tables_api.c,
nft_rcv_nl_event).
"""

from __future__ import annotations

import ctypes

LIBRARY = "libnftables.so.1"


class NftError(Exception):
    """Raised if the library is missing, or if nft refuses commands; the message is then nft's."""


class Nft:
    """Holds one socket to nf_tables.  Raises NftError if the library is missing."""

    def __init__(self) -> None:
        self._library = library = _load()
        self._context: int | None = library.nft_ctx_new(0)
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)

    def run(self, commands: str) -> str:
        """Carry out all of `commands` or none, and return what they print.  Raises NftError.

        Waits while another process changes the ruleset.  At most one thread may be in this method.
        """
        failed = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        output: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
        error: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if failed:
            raise NftError(error.decode(errors="replace").partition("\n")[0].removeprefix("Error: "))
        return output.decode(errors="replace")

    def close(self) -> None:
        """Close the socket; the kernel then removes the tables that it owns."""
        context, self._context = self._context, None
        if context is not None:
            self._library.nft_ctx_free(context)


def is_installed() -> bool:
    """Return whether the library is installed."""
    try:
        _load()
    except NftError:
        return False
    return True


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        raise NftError(f"{LIBRARY} is not installed") from None
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    return library
