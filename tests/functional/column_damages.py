"""What somebody can set the columns of our rows in OVSDB to; and the columns that aren't ours."""

from damages import TO_A

#: Column → what others make of it: arguments of ovs-vsctl, the record in braces for each of the
#: records that are ours.
Damages = dict[str, list[str]]


def settings(table: str, damages: dict[str, list[str]]) -> Damages:
    return {
        column: [f"set {table} {{}} {column}{value}" for value in values]
        for column, values in damages.items()
    }


BRIDGE: Damages = settings(
    "Bridge",
    {
        "fail_mode": ["=standalone"],
        "datapath_type": ["=system"],
        "flood_vlans": ["=5,6"],
        "mcast_snooping_enable": ["=true"],
        "other_config": [":disable-in-band=false"],
        "rstp_enable": ["=true"],
        "stp_enable": ["=true"],
    },
)
BRIDGE["fail_mode"].append("clear Bridge {} fail_mode")
BRIDGE["other_config"].append("clear Bridge {} other_config")
BRIDGE["ports"] = [f"del-port {{}} {TO_A}", "del-port {} patch-int", "clear Bridge {} ports"]
#: The versions that we don't need stay as they are.
BRIDGE["protocols"] = []

PORT: Damages = settings(
    "Port",
    {
        "bond_downdelay": ["=1000"],
        "bond_fake_iface": ["=true"],
        "bond_mode": ["=active-backup", "=balance-slb"],
        "bond_updelay": ["=1000"],
        "cvlans": ["=5"],
        "external_ids": [":ovs-l2pop=somebody"],
        "fake_bridge": ["=true"],
        "lacp": ["=active", "=off"],
        "mac": ["=02\\:00\\:00\\:00\\:00\\:01"],
        "other_config": [":stp-enable=false", ":mcast-snooping-flood=false", ":transient=true"],
        "protected": ["=true"],
        "tag": ["=0", "=7"],
        "trunks": ["=5,6"],
        "vlan_mode": ["=access", "=native-untagged", "=dot1q-tunnel"],
    },
)
PORT["external_ids"].append("clear Port {} external_ids")
PORT["other_config"].append("clear Port {} other_config")
PORT["qos"] = ["set Port {} qos=@q -- --id=@q create QoS type=linux-htb"]
PORT["interfaces"] = [
    "-- --id=@i create Interface name=beside-{} type=internal -- add Port {} interfaces @i",
    "-- --id=@i create Interface name=for-{} type=internal -- set Port {} interfaces=@i",
]

INTERFACE: Damages = settings(
    "Interface",
    {
        "bfd": [":enable=true"],
        "cfm_mpid": ["=1"],
        "ingress_policing_burst": ["=1"],
        "ingress_policing_kpkts_burst": ["=1"],
        "ingress_policing_kpkts_rate": ["=1"],
        "ingress_policing_rate": ["=1"],
        "lldp": [":enable=true"],
        "mac": ["=02\\:00\\:00\\:00\\:00\\:01"],
        "mtu_request": ["=1000"],
        "options": ["=ttl=3", ":remote_ip=10.200.0.99", ":remote_ip=nobody", ":peer=nobody"],
        "ofport_request": ["=50"],
        "other_config": [":cfm_interval=100"],
        "type": ["=gre", "=geneve", "=internal", "=patch", "=system", '=""'],
    },
)
INTERFACE["options"].append("clear Interface {} options")
INTERFACE["options"] += [
    f"remove Interface {{}} options {key}"
    for key in ("remote_ip", "local_ip", "in_key", "out_key", "dst_port", "egress_pkt_mark", "peer")
]
INTERFACE["ofport_request"].append("clear Interface {} ofport_request")

DAMAGES = {"Bridge": BRIDGE, "Port": PORT, "Interface": INTERFACE}

_SWITCH = "Open vSwitch writes it"
NOT_OURS = {
    "Bridge": {
        "auto_attach": "tells neighbours of the bridge and changes no frame",
        "controller": "told in health",
        "datapath_id": _SWITCH,
        "datapath_version": _SWITCH,
        "external_ids": "notes of others",
        "flow_tables": "limits of the operator: what is refused for them is told",
        "ipfix": "counts",
        "mirrors": "copies",
        "name": "can't be changed",
        "netflow": "counts",
        "rstp_status": _SWITCH,
        "sflow": "counts",
        "status": _SWITCH,
    },
    "Port": {
        "bond_active_slave": _SWITCH,
        "name": "can't be changed",
        "rstp_statistics": _SWITCH,
        "rstp_status": _SWITCH,
        "statistics": _SWITCH,
        "status": _SWITCH,
    },
    "Interface": {
        **dict.fromkeys(
            (
                *("admin_state", "bfd_status", "cfm_fault", "cfm_fault_status", "cfm_flap_count"),
                *("cfm_health", "cfm_remote_mpids", "cfm_remote_opstate", "duplex", "error"),
                *("ifindex", "lacp_current", "link_resets", "link_speed", "link_state"),
                *("mac_in_use", "mtu", "ofport", "statistics", "status"),
            ),
            _SWITCH,
        ),
        "external_ids": "notes of others",
        "name": "can't be changed",
    },
}
