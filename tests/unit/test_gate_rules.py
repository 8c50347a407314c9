from ipaddress import ip_address

from ftfw.daemon import gate_rules


def packed(*addresses: str) -> frozenset[bytes]:
    return frozenset(ip_address(address).packed for address in addresses)


def test_the_table_goes_with_its_process_and_shuts_before_conntrack() -> None:
    text = gate_rules.table(["lan", "wan"], packed(), 40000)
    assert "flags owner" in text
    assert "hook prerouting priority raw - 10" in text
    assert 'iifname { "lan", "wan" } numgen inc mod 1 @shut goto wait' in text
    assert "ip saddr 127.0.0.1 udp sport 40000 goto knocked" in text


def test_addresses_pass_each_in_the_set_of_its_family() -> None:
    assert gate_rules.pass_to(packed("192.0.2.2", "192.0.2.1", "2001:db8::1")) == (
        "flush set inet ftfw_gate own4\n"
        "add element inet ftfw_gate own4 { 192.0.2.1, 192.0.2.2 }\n"
        "flush set inet ftfw_gate own6\n"
        "add element inet ftfw_gate own6 { 2001:db8::1 }\n"
    )


def test_without_addresses_the_sets_are_empty() -> None:
    assert "add element" not in gate_rules.pass_to(packed())


def test_the_count() -> None:
    listed = "table inet ftfw_gate {\n\tcounter dropped {\n\t\tpackets 17 bytes 1020\n\t}\n}\n"
    assert gate_rules.count(listed) == 17
    assert gate_rules.count("") == 0
