"""What a tunnel adds to a packet."""

_ETHERNET = 14
_IP = {4: 20, 6: 40}
#: UDP and VXLAN (RFC 7348 §5), UDP and Geneve without options (RFC 8926 §3), GRE with a key
#: (RFC 2890).
_TUNNEL = {"vxlan": 8 + 8, "geneve": 8 + 8, "gre": 4 + 4}


def headers(network_type: str, version: int) -> int:
    """Bytes of all headers in front of a machine's IP packet, its own Ethernet header included.

    :param version: of IP on the underlay.
    """
    return _IP[version] + _TUNNEL[network_type] + _ETHERNET
