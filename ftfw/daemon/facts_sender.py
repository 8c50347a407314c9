"""Sends facts about this host to the other nodes, whose `ftfw check` compares them with their own."""

import trio

from ftfw.config.schema import Config
from ftfw.daemon import local_host
from ftfw.daemon.transport import Transport
from ftfw.kernel import helpers
from ftfw.replication import messages
from ftfw.replication.host_facts import Fact
from ftfw.replication.limits import FACTS_S
from ftfw.security.frames import OVERHEAD


class FactsSender:
    """Sends facts every FACTS_S, in frames of full length, so that `ftfw check` finds a path that drops long frames."""

    def __init__(self, config: Config, transport: Transport) -> None:
        self._config = config
        self._transport = transport
        self._helpers = helpers.installed_helpers()  # when the daemon started

    def facts(self) -> dict[str, Fact]:
        """Return the facts about this host as they are now."""
        return local_host.facts(self._config.standby.mode, self._transport.body_limit + OVERHEAD, self._helpers)

    async def run(self) -> None:
        """Send the facts every FACTS_S, until cancelled."""
        while True:
            self._transport.send([messages.facts(self._config.node.name, self.facts(), self._transport.body_limit)])
            await trio.sleep(FACTS_S)
