"""What errors and logs say of a transaction is short, whatever it writes."""

from unittest.mock import Mock

from ovs_l2pop.backends.openvswitch.ovsdb_commands import WriteTunnels
from ovs_l2pop.backends.openvswitch.rows import TunnelPort


def test_its_text_tells_of_thousands_of_rows_in_few_words() -> None:
    rows = [TunnelPort(f"vxlan-{n:08x}", "vxlan", "192.0.2.1", (), n) for n in range(7004)]
    command = WriteTunnels(None, Mock(), "br-tun", rows, rows[:3], (), shared=False)
    assert str(command) == "make 7004 and delete 3 tunnel ports"
