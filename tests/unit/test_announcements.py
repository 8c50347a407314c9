from ftfw.lab.announcements import announcement_frame

MAC = bytes.fromhex("020000000001")


def test_gratuitous_arp_names_the_address_as_sender_and_target() -> None:
    arp = announcement_frame(MAC, "192.0.2.1")
    assert arp[:14] == b"\xff" * 6 + MAC + b"\x08\x06"
    assert arp[14:22] == bytes.fromhex("0001080006040001")
    assert arp[22:32] == MAC + bytes([192, 0, 2, 1])
    assert arp[38:42] == bytes([192, 0, 2, 1])


def test_unsolicited_advertisement_overrides_and_its_checksum_holds() -> None:
    advertisement = announcement_frame(MAC, "2001:db8:1::1")
    assert advertisement[:14] == bytes.fromhex("333300000001") + MAC + b"\x86\xdd"
    ipv6, message = advertisement[14:54], advertisement[54:]
    assert ipv6[7] == 255
    assert message[0] == 136
    assert message[4] == 0xA0
    assert message[-8:] == b"\x02\x01" + MAC
    covered = ipv6[8:40] + len(message).to_bytes(4, "big") + b"\0\0\0\x3a" + message
    total = sum(int.from_bytes(covered[i : i + 2], "big") for i in range(0, len(covered), 2))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
