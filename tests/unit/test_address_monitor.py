from ipaddress import ip_address

from ftfw.daemon.roles.address_monitor import ADOPTION_S, DISAGREEMENT_S, AddressMonitor

LAN, WAN = ip_address("192.0.2.1"), ip_address("2001:db8::1")
BOTH = frozenset({LAN.packed, WAN.packed, b"\x7f\x00\x00\x01"})


def test_a_role_without_the_addresses_is_told_when_it_lasts() -> None:
    monitor = AddressMonitor([LAN, WAN])
    monitor.learn_addresses(frozenset({LAN.packed}))
    assert not monitor.check_role("active", 10)
    assert not monitor.check_role("active", 10 + DISAGREEMENT_S / 2)
    assert monitor.check_role("active", 10 + DISAGREEMENT_S)
    assert monitor.disagreement == "this node is active without 2001:db8::1"
    assert not monitor.check_role("active", 20)
    monitor.learn_addresses(BOTH)
    assert monitor.check_role("active", 21)
    assert not monitor.disagreement
    assert monitor.present == ["192.0.2.1", "2001:db8::1"]


def test_addresses_on_a_backup_are_told_when_that_lasts() -> None:
    monitor = AddressMonitor([LAN])
    monitor.learn_addresses(BOTH)
    assert not monitor.check_role("backup", 0)
    assert monitor.check_role("backup", DISAGREEMENT_S)
    assert monitor.disagreement == "this node is backup, and 192.0.2.1 is here"


def test_while_the_role_changes_nothing_is_said() -> None:
    monitor = AddressMonitor([LAN])
    monitor.learn_addresses(BOTH)
    assert not monitor.check_role("backup", 0)
    assert not monitor.check_role(None, DISAGREEMENT_S)
    assert not monitor.check_role("active", 2 * DISAGREEMENT_S)


def test_all_addresses_have_to_last_on_a_backup() -> None:
    monitor = AddressMonitor([LAN, WAN])
    monitor.learn_addresses(frozenset({LAN.packed}))
    assert not monitor.must_adopt("backup", 0)
    assert not monitor.must_adopt("backup", ADOPTION_S)
    monitor.learn_addresses(BOTH)
    assert not monitor.must_adopt("backup", 10)
    assert monitor.must_adopt("backup", 10 + ADOPTION_S)
    assert not monitor.must_adopt(None, 20)
    assert not monitor.must_adopt("backup", 21)
    monitor.learn_addresses(frozenset())
    assert not monitor.must_adopt("backup", 21 + ADOPTION_S)
    assert not AddressMonitor([]).must_adopt("backup", 0)


def test_without_addresses_there_is_nothing_to_compare() -> None:
    monitor = AddressMonitor([])
    monitor.learn_addresses(BOTH)
    assert not monitor.check_role("active", 0)
    assert not monitor.check_role("backup", 100)
    assert monitor.present == []
