import socket
import struct

from bench.generator import FRAME_BYTES, Sender, checksum, frame, tuples


def test_random_flows_are_many_and_stay_in_the_documentation_networks() -> None:
    flows = tuples(5000, seed=1)
    assert len(set(flows)) == 5000
    assert flows == tuples(5000, seed=1)
    assert not set(flows) & set(tuples(5000, seed=2))
    for source, destination, from_port, to_port in flows:
        assert source[:3] == bytes([198, 51, 100])
        assert destination[:3] == bytes([203, 0, 113])
        assert 1 <= source[3] <= 254
        assert 1 <= destination[3] <= 254
        assert 1024 <= from_port <= 65535
        assert 1024 <= to_port <= 65535


def test_checksum_against_the_worked_example_of_rfc_1071_in_common_use() -> None:
    header = bytes.fromhex("45000073000040004011 0000 c0a80001c0a800c7")
    assert checksum(header) == 0xB861


def test_every_frame_has_a_right_header() -> None:
    for flow in tuples(1000, seed=3):
        built = frame(bytes(6), *flow)
        assert len(built) == FRAME_BYTES
        header = built[14:34]
        assert checksum(header) == 0  # over a header with its checksum in place
        assert struct.unpack("!HH", built[34:38]) == flow[2:]


def test_many_frames_go_out_in_one_call_and_arrive_as_they_are() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    frames = [frame(bytes(6), *flow) for flow in tuples(20, seed=5)]
    with near, far:
        sender = Sender(near, b"".join(frames))
        far.setblocking(False)
        assert sender.send(5, 8) == 8
        assert [far.recv(2048) for _ in range(8)] == frames[5:13]
