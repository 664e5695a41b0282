"""What the columns of our rows in OVSDB must be (ovs-vswitchd.conf.db(5), schema 8.3.1).

Whatever a column is here for, somebody can set it, and most values of most columns keep frames from
going their way: a tag on a tunnel port, STP on the bridge, ``protected``, BFD, a policing rate. So
every one that ovs-vswitchd reads is ours, on rows that are ours, and is put back. What is left out
is what ovs-vswitchd itself writes, and what changes nothing of ours: notes (``external_ids`` but
our mark), and what copies or counts (mirrors, sFlow).

Values are in the form of the library: a list for what is optional or a set, a dictionary for a map.
"""

from typing import Any

from ovs_l2pop.backends.openvswitch.rows import Oddities

#: Column → value.
Columns = dict[str, Any]

#: Of the tunnel bridge; besides its fail mode, datapath type, protocols and "disable-in-band".
BRIDGE: Columns = {
    "flood_vlans": [],
    "mcast_snooping_enable": False,
    "rstp_enable": False,
    "stp_enable": False,
}

#: Of tunnel and patch ports; besides their mark and interface.
PORT: Columns = {
    "bond_downdelay": 0,
    "bond_fake_iface": False,
    "bond_mode": [],
    "bond_updelay": 0,
    "cvlans": [],
    "fake_bridge": False,
    "lacp": [],
    "mac": [],
    "other_config": {},
    "protected": False,
    "qos": [],
    "tag": [],
    "trunks": [],
    "vlan_mode": [],
}

#: Of the port towards the tunnels in the integration bridge. Where that bridge snoops multicast, it
#: would send a group's frames only where it has seen a member, and no report to other hosts, which
#: then send nothing here (Neutron bug 1884723). Without snooping both mean nothing.
INTEGRATION_PATCH_PORT: Columns = PORT | {
    "other_config": {"mcast-snooping-flood": "true", "mcast-snooping-flood-reports": "true"}
}

#: Of their interfaces; besides type, options and the requested number.
INTERFACE: Columns = {
    "bfd": {},
    "cfm_mpid": [],
    "ingress_policing_burst": 0,
    "ingress_policing_kpkts_burst": 0,
    "ingress_policing_kpkts_rate": 0,
    "ingress_policing_rate": 0,
    "lldp": {},
    "mac": [],
    "mtu_request": [],
    "other_config": {},
}


def odd(row: Any, wanted: Columns) -> Oddities:
    """The columns of a row that aren't as wanted. A schema without a column is an older one."""
    return tuple(
        (column, _text(value))
        for column, expected in wanted.items()
        if (value := getattr(row, column, expected)) != expected
    )


def put_right(row: Any, wanted: Columns) -> None:
    """Set the columns of a row that aren't as wanted, in the transaction that is open."""
    for column, expected in wanted.items():
        if getattr(row, column, expected) != expected:
            setattr(row, column, expected)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}:{item}" for key, item in sorted(value.items())) or "{}"
    if isinstance(value, list):
        return ",".join(str(getattr(item, "uuid", item)) for item in value) or "[]"
    return str(value).lower() if isinstance(value, bool) else str(value)
