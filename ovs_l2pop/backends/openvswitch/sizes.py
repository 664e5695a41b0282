"""What the underlay has room for."""

from collections.abc import Mapping

#: Bytes of UDP and VXLAN (RFC 7348), UDP and Geneve without options (RFC 8926), GRE with a key
#: (RFC 2890).
_OUTER = {"vxlan": 8 + 8, "geneve": 8 + 8, "gre": 4 + 4}
_IP = {4: 20, 6: 40}
#: Of a frame with the local VLAN's tag.
HEADS = 14 + 4


def frame_sizes(mtu: int, version: int, checksum: bool) -> Mapping[str, int]:
    """Bytes of the largest frame that fits, with the local VLAN's tag (which no tunnel carries), by
    network type.

    :param mtu: of the underlay's device.
    :param version: of IP on the underlay.
    :param checksum: tunnels have one, of which GRE's takes 4 bytes.
    """
    return {
        kind: mtu - _IP[version] - outer - (4 if checksum and kind == "gre" else 0) + 4
        for kind, outer in _OUTER.items()
    }
