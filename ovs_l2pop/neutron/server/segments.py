"""Segments of networks. Pure."""

from typing import NamedTuple

from ovs_l2pop.core.messages import Segment


class NetworkSegment(NamedTuple):
    """As far as a tunnel reaches: a network, or one of its segments.

    Hosts in different segments of a network (VXLAN here, GRE there) are joined by something outside
    of Neutron, if at all. No tunnel leads from one to the other.
    """

    network_id: str
    segment: Segment
    #: The segment's row where the network has several, and who is in which must be looked up.
    #: None: whoever is in the network is in the segment.
    row: str | None = None
