"""What Open vSwitch speaks and the OpenFlow libraries don't: taught to them.

Numbers and forms are those of ``lib/ofp-actions.c`` of Open vSwitch and of ``ovs-fields(7)``.
"""

import struct
from typing import Any

_CHECK_PACKET_LARGER, _LEARN2 = 49, 45
_CHECK = struct.Struct("!HH")  # bytes, bit; then the field
_LIMIT = struct.Struct("!IH2x")  # flows, where to tell that there was no room


def teach(ofproto: Any, parser: Any, fields: Any, types: Any) -> None:
    """Once for each library."""
    if any(known.name == "nd_reserved" for known in ofproto.oxm_types):
        return
    _teach_fields(ofproto, fields, types)
    _teach_check_packet_larger(ofproto, parser)
    _teach_learn2(parser)


def _teach_fields(ofproto: Any, fields: Any, types: Any) -> None:
    """ERICOXM_OF_ICMPV6_ND_RESERVED (class 0x1000, field 1, 32 bits) and
    ERICOXM_OF_ICMPV6_ND_OPTIONS_TYPE (field 2, 8 bits), since Open vSwitch 2.11; and the registers
    of 64 bits (class 0x8001), which ryu lacks."""
    ericsson = type("EricssonExtended", (fields._OxmClass,), {"_class": 0x1000})
    ofproto.oxm_types += [
        ericsson("nd_reserved", 1, types.Int4),
        ericsson("nd_options_type", 2, types.Int1),
    ]
    if not any(known.name == "xreg0" for known in ofproto.oxm_types):
        registers = type("PacketRegisters", (fields._OxmClass,), {"_class": 0x8001})
        ofproto.oxm_types += [registers(f"xreg{n}", n, types.Int8) for n in range(8)]
    fields.generate(ofproto.__name__)


def _teach_check_packet_larger(ofproto: Any, parser: Any) -> None:
    """``check_pkt_larger``, since Open vSwitch 2.12."""

    class NXActionCheckPacketLarger(parser.NXAction):
        """Sets a bit of *dst_field* where the packet has more than *size* bytes, else clears it."""

        _subtype = _CHECK_PACKET_LARGER

        def __init__(self, size: int, dst_field: str, bit: int = 0) -> None:
            super().__init__()
            self.size, self.dst_field, self.bit = size, dst_field, bit

        @classmethod
        def parser(cls, data: bytes) -> Any:
            size, bit = _CHECK.unpack_from(data)
            number, _ = ofproto.oxm_parse_header(data, _CHECK.size)
            return cls(size, ofproto.oxm_to_user_header(number), bit)

        def serialize_body(self) -> bytearray:
            field = bytearray()
            ofproto.oxm_serialize_header(ofproto.oxm_from_user_header(self.dst_field), field, 0)
            return bytearray(_CHECK.pack(self.size, self.bit)) + field

    _register(parser, NXActionCheckPacketLarger)


def _teach_learn2(parser: Any) -> None:
    """``learn`` with a limit, since Open vSwitch 2.8."""
    head = struct.calcsize(parser.NXActionLearn._fmt_str)

    class NXActionLearn2(parser.NXActionLearn):
        """As NXActionLearn, but no more than *limit* flows of the same table and cookie."""

        _subtype = _LEARN2

        def __init__(self, limit: int, **learn: Any) -> None:
            super().__init__(**learn)
            self.limit = limit

        @classmethod
        def parser(cls, data: bytes) -> Any:
            learn = parser.NXActionLearn.parser(data[:head] + data[head + _LIMIT.size :])
            names = ("table_id", "specs", "idle_timeout", "hard_timeout", "priority", "cookie")
            limit, _ = _LIMIT.unpack_from(data, head)
            return cls(limit, **{name: getattr(learn, name) for name in names}, flags=learn.flags)

        def serialize_body(self) -> bytearray:
            body = bytearray(super().serialize_body())
            return body[:head] + _LIMIT.pack(self.limit, 0) + body[head:]

    _register(parser, NXActionLearn2)


def _register(parser: Any, action: Any) -> None:
    setattr(parser, action.__name__, action)
    parser.NXAction.register(action)
