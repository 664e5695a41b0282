"""What the underlay has room for."""

from collections.abc import Mapping

from ovs_l2pop.core.encapsulation import headers
from ovs_l2pop.core.messages import MAX_SEGMENT_ID

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
        kind: mtu - headers(kind, version) - (4 if checksum and kind == "gre" else 0) + HEADS
        for kind in MAX_SEGMENT_ID
    }
