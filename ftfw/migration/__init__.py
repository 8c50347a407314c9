"""From conntrackd's configuration to ftfw's: text in, TOML and remarks out; nothing is asked of the host.

`syntax` reads the file, `options` says what becomes of each option, `translation` does it: `taking` takes the values,
`filters` those that select flows.
"""

from __future__ import annotations

from ftfw.migration.options import Remark, Severity
from ftfw.migration.syntax import MigrationError
from ftfw.migration.translation import NothingToDoError, Translation, translate

__all__ = ["MigrationError", "NothingToDoError", "Remark", "Severity", "Translation", "translate"]
