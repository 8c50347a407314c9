import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftfw.lab import wire

MESSAGES: st.SearchStrategy[wire.Message] = st.one_of(
    st.builds(wire.Command, operation=st.text(), arguments=st.dictionaries(st.text(), st.integers() | st.text())),
    st.builds(
        wire.Report,
        flow=st.text(),
        alive=st.booleans(),
        pause_s=st.none() | st.floats(allow_nan=False),
        reason=st.text(),
    ),
    st.builds(wire.Done, error=st.text()),
)


@given(MESSAGES)
def test_every_message_comes_back_from_one_line(message: wire.Message) -> None:
    line = wire.encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert wire.decode(line) == message


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b'{"kind": "gossip"}',
        b'{"flow": "x"}',
        b'{"kind": "report", "flow": "x"}',
        b'{"kind": "done", "error": "", "colour": 1}',
        b'{"kind": ["report"]}',
    ],
)
def test_anything_else_is_refused(line: bytes) -> None:
    with pytest.raises(wire.WireError, match="not a message"):
        wire.decode(line)
