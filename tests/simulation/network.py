"""A simulated network: every frame goes to every other node, over each link, unless something happens to it."""

from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random

RECORDED_MAX = 400  # frames that an eavesdropper has at hand


@dataclass
class Weather:
    """Says what happens to frames, as probabilities, and how long they are under way, in seconds."""

    loss: float
    duplication: float
    corruption: float
    delay_s: float
    jitter_s: float


@dataclass
class Network:
    """Frames under way.  `blocked`: directed pairs of nodes, and until when nothing gets from the one to the other."""

    random: Random
    weather: Weather
    links: int
    blocked: dict[tuple[str, str], float] = field(default_factory=dict)
    recorded: list[bytes] = field(default_factory=list)
    damaged: set[bytes] = field(default_factory=set)  # that nobody has sealed like this
    _under_way: list[tuple[float, int, str, int, bytes]] = field(default_factory=list)
    _number: int = 0

    def send(self, source: str, names: list[str], frames: list[bytes], now: float) -> None:
        for frame in frames:
            self._record(frame)
            for name in names:
                if name != source and self.blocked.get((source, name), 0.0) <= now:
                    for link in range(self.links):
                        self._carry(name, link, frame, now)

    def _carry(self, name: str, link: int, frame: bytes, now: float) -> None:
        weather, random = self.weather, self.random
        if random.random() < weather.loss:
            return
        for _ in range(2 if random.random() < weather.duplication else 1):
            at = now + weather.delay_s + random.random() * weather.jitter_s
            self.put(name, link, self.damage(frame) if random.random() < weather.corruption else frame, at)

    def put(self, name: str, link: int, frame: bytes, at: float) -> None:
        """Have a frame arrive; whoever sent it."""
        self._number += 1
        heappush(self._under_way, (at, self._number, name, link, frame))

    def damage(self, frame: bytes) -> bytes:
        """The frame with one bit changed, or cut."""
        damaged = bytearray(frame)
        if self.random.random() < 0.2:
            del damaged[self.random.randrange(len(damaged)) :]
        else:
            damaged[self.random.randrange(len(damaged))] ^= 1 << self.random.randrange(8)
        self.damaged.add(bytes(damaged))
        return bytes(damaged)

    def _record(self, frame: bytes) -> None:
        if len(self.recorded) < RECORDED_MAX:
            self.recorded.append(frame)
        elif self.random.random() < 0.05:
            self.recorded[self.random.randrange(RECORDED_MAX)] = frame

    def arrived(self, now: float) -> list[tuple[str, int, bytes]]:
        """The frames that have arrived by now: at whom, over which link."""
        found = []
        while self._under_way and self._under_way[0][0] <= now:
            _, _, name, link, frame = heappop(self._under_way)
            found.append((name, link, frame))
        return found
