"""What SIGHUP has read again: the key files, and the configuration for which of them there are."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import BaseModel

from ftfw.config.schema import Config, ConfigError, load, require_complete
from ftfw.security import key_file

log = logging.getLogger(__name__)


class Files:
    """The configuration as the daemon runs with it, and its file."""

    def __init__(self, path: Path, config: Config) -> None:
        self._path = path
        self._running = config
        self._key_files = config.security.key_files

    def read_again(self) -> list[bytes] | None:
        """Return the keys; None if they stay as they are.  What else has changed, or is wrong, is told in the log."""
        key_files = self._look() or self._key_files
        try:
            keys = [key_file.read(path) for path in key_files]
        except key_file.KeyFileError as error:
            log.warning("SIGHUP: the keys stay as they are: %s", error)
            return None
        self._key_files = key_files
        log.info("SIGHUP: %d keys read", len(keys))
        return keys

    def _look(self) -> tuple[Path, ...]:
        """The key files that the configuration names now; none if it is wrong."""
        try:
            now = load(self._path)
            require_complete(now, self._path)
        except ConfigError as error:
            problems = "; ".join(str(error).splitlines())
            log.warning("SIGHUP: the configuration stays as it is, and the next start will fail: %s", problems)
            return ()
        if keys := changed(self._running, now):
            log.warning("SIGHUP: %s: %s changed since the start: restart ftfw to use that", self._path, ", ".join(keys))
        return now.security.key_files


def changed(running: Config, now: Config) -> list[str]:
    """Name the keys whose values differ, by their full paths, but for those that SIGHUP is for."""
    found = []
    for section in Config.model_fields:
        before, after = getattr(running, section), getattr(now, section)
        if isinstance(before, BaseModel):
            keys = [key for key in type(before).model_fields if getattr(before, key) != getattr(after, key)]
            found += [f"{section}.{key}" for key in keys if section != "security"]
        elif before != after:
            found.append(section)
    return found
