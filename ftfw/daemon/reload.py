"""Reloads the key files on SIGHUP, and the configuration for their names."""

from __future__ import annotations

import logging
import signal
from pathlib import Path

import trio
from pydantic import BaseModel

from ftfw.config.config_errors import ConfigError
from ftfw.config.schema import Config, load, require_complete
from ftfw.daemon.systemd import SystemdNotifier
from ftfw.daemon.transport import Transport
from ftfw.security import key_file

log = logging.getLogger(__name__)


class KeyReload:
    """Reads the keys again, and compares the configuration file with the configuration that the daemon runs with."""

    def __init__(self, path: Path, config: Config) -> None:
        self._path = path
        self._running = config
        self._key_files = config.security.key_files

    async def reload_until_end(self, transport: Transport, systemd: SystemdNotifier) -> None:
        """Have `transport` use the keys that are read at each SIGHUP; return at SIGINT or SIGTERM."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async for received in signals:
                if received != signal.SIGHUP:
                    return
                with systemd.reloading():
                    if keys := self.read_keys():
                        transport.rekey(keys)

    def read_keys(self) -> list[bytes] | None:
        """Return the keys; None if the present keys stay in use.  Log other changes and errors."""
        key_files = self._named_key_files() or self._key_files
        try:
            keys = [key_file.read(path) for path in key_files]
        except key_file.KeyFileError as error:
            log.warning("SIGHUP: the present keys stay in use: %s", error)
            return None
        self._key_files = key_files
        log.info("SIGHUP: %d keys read", len(keys))
        return keys

    def _named_key_files(self) -> tuple[Path, ...]:
        """Return the key files that the configuration names now; none if the configuration is wrong."""
        try:
            now = load(self._path)
            require_complete(now, self._path)
        except ConfigError as error:
            problems = "; ".join(str(error).splitlines())
            log.warning("SIGHUP: the present configuration stays in use, and the next start will fail: %s", problems)
            return ()
        if keys := changed(self._running, now):
            log.warning("SIGHUP: %s: %s changed since the start; restart ftfw to apply it", self._path, ", ".join(keys))
        return now.security.key_files


def changed(running: Config, now: Config) -> list[str]:
    """Return the full paths of the keys whose values differ, except those that SIGHUP reloads."""
    found = []
    for section in Config.model_fields:
        before, after = getattr(running, section), getattr(now, section)
        if isinstance(before, BaseModel):
            keys = [key for key in type(before).model_fields if getattr(before, key) != getattr(after, key)]
            found += [f"{section}.{key}" for key in keys if section != "security"]
        elif before != after:
            found.append(section)
    return found
