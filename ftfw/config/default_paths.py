"""Names the files that ftfw uses by default.  Light to import: the control client reads it."""

from pathlib import Path
from typing import Final

DEFAULT_CONFIG: Final = Path("/etc/ftfw/ftfw.toml")
DEFAULT_SOCKET: Final = Path("/run/ftfw/control.sock")
