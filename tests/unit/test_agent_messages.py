import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftfw.lab import agent_messages

MESSAGES: st.SearchStrategy[agent_messages.Message] = st.one_of(
    st.builds(
        agent_messages.AgentCommand,
        operation=st.text(),
        arguments=st.dictionaries(st.text(), st.integers() | st.text()),
    ),
    st.builds(
        agent_messages.FlowReport,
        flow=st.text(),
        alive=st.booleans(),
        pause_s=st.none() | st.floats(allow_nan=False),
        reason=st.text(),
    ),
    st.builds(agent_messages.CommandDone, error=st.text()),
)


@given(MESSAGES)
def test_every_message_comes_back_from_one_line(message: agent_messages.Message) -> None:
    line = agent_messages.encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert agent_messages.decode(line) == message


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
    with pytest.raises(agent_messages.AgentMessageError, match="not a message"):
        agent_messages.decode(line)
