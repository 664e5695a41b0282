"""The OpenFlow library: templates to OpenFlow 1.3 bytes, and bytes to text for people.

os-ken and ryu share their codec's interface, so either can be had by name; nothing else of this
package knows the library. OpenFlow 1.3 everywhere: it is what a Neutron agent's connection speaks,
Open vSwitch accepts bundles in it (ONF extension 230), and a flow has the same bytes in 1.4.
"""

import importlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from ovs_l2pop.backends.openvswitch import dialect
from ovs_l2pop.backends.openvswitch.pipeline import Bucket, FlowTemplate, GroupTemplate, Pipeline
from ovs_l2pop.backends.openvswitch.rows import flow_key
from ovs_l2pop.core.errors import ConfigError, PipelineError

LOG = logging.getLogger(__name__)

LIBRARIES = ("os_ken", "ryu")

OFP_VERSION = 0x04


class Codec:
    """Builds and reads flows through one OpenFlow library.

    :raises ConfigError: the library can't be imported.
    """

    def __init__(self, pipeline: Pipeline, library: str = "os_ken") -> None:
        try:
            self.ofproto: Any = importlib.import_module(f"{library}.ofproto.ofproto_v1_3")
            self.parser: Any = importlib.import_module(f"{library}.ofproto.ofproto_v1_3_parser")
            fields = importlib.import_module(f"{library}.ofproto.oxm_fields")
            types = importlib.import_module(f"{library}.lib.type_desc")
        except ImportError as error:
            raise ConfigError(f"openflow_library {library} can't be imported: {error}") from error
        self._pipeline = pipeline
        self._group_ids = pipeline.group_ids
        dialect.teach(self.ofproto, self.parser, fields, types)

    # -- to bytes --------------------------------------------------------------------------

    def match(
        self, template: FlowTemplate, extra: Mapping[str, Any], values: Mapping[str, Any]
    ) -> bytes:
        """The template's match as bytes, padded to 8, ``extra`` fields behind its own.

        The fields keep the template's order: the one in which Open vSwitch returns them.
        """
        fields = {**template.match, **extra}
        try:
            ordered = [
                self.ofproto.oxm_normalize_user(name, self._resolve(template, value, values))
                for name, value in fields.items()
            ]
            buf = bytearray()
            self.parser.OFPMatch(_ordered_fields=ordered).serialize(buf, 0)
        except Exception as error:  # whatever the library makes of a wrong file
            raise self._error(template, f"match {fields}: {error!r}") from error
        return bytes(buf)

    def actions(
        self, template: FlowTemplate | GroupTemplate, actions: Any, values: Mapping[str, Any]
    ) -> list[bytes]:
        """Each action of ``actions`` as bytes, padded to 8."""
        result = []
        for name, arguments in actions:
            try:
                buf = bytearray()
                self._build(template, name, arguments, values).serialize(buf, 0)
            except PipelineError:
                raise
            except Exception as error:
                raise self._error(template, f"action {name}: {error!r}") from error
            # The libraries leave padding at the end to whatever they write behind it.
            result.append(bytes(buf).ljust(int.from_bytes(buf[2:4], "big"), b"\0"))
        return result

    def bucket(self, template: GroupTemplate, bucket: Bucket, values: Mapping[str, Any]) -> bytes:
        """A bucket as bytes, as a group description carries it."""
        actions = b"".join(self.actions(template, bucket.actions, values))
        buf = bytearray()
        any_port, any_group = self.ofproto.OFPP_ANY, self.ofproto.OFPG_ANY
        self.parser.OFPBucket(bucket.weight, any_port, any_group, []).serialize(buf, 0)
        head = len(buf)
        # The library would build the actions once more; only the length is ours to set.
        buf[0:2] = (head + len(actions)).to_bytes(2, "big")
        return bytes(buf) + actions

    def learned_match(self, vlan: bytes, mac: bytes | None = None) -> bytes:
        """The match of what the switch learned of a MAC in a local VLAN; without a MAC, a match
        that comprises all that it learned there.

        Learned flows match the 12 bits of the VLAN id alone. One bit more here, OFPVID_PRESENT,
        and Open vSwitch finds this match narrower than theirs and deletes none of them.
        """
        fields: dict[str, Any] = {"vlan_vid": (int.from_bytes(vlan, "big") & 0xFFF, 0xFFF)}
        if mac is not None:
            fields["eth_dst"] = mac.hex(":")
        buf = bytearray()
        self.parser.OFPMatch(**fields).serialize(buf, 0)
        return bytes(buf)

    def conjunction(self, clause: int, clauses: int, number: int) -> tuple[str, Mapping[str, Any]]:
        """The action that says: clause ``clause`` of conjunctive match ``number`` holds."""
        return "NXActionConjunction", {"clause": clause, "n_clauses": clauses, "id_": number}

    # -- to text ---------------------------------------------------------------------------

    def flow_text(self, row: bytes) -> tuple[str, int, str, str]:
        """(table name, priority, match, actions) of a flow row, to be read by people."""
        offset = len(flow_key(row))
        try:
            match = self.parser.OFPMatch.parser(row, 3)
            fields = " ".join(self._field_texts(match)) or "any"
            actions = " ".join(self._instruction_texts(row, offset)) or "drop"
        except Exception as error:  # noqa: BLE001 - whatever the library makes of foreign bytes
            LOG.debug("%s can't be read by the OpenFlow library: %r", row.hex(), error)
            fields, actions = row[3:offset].hex(), row[offset:].hex()
        return self._pipeline.table_name(row[0]), int.from_bytes(row[1:3], "big"), fields, actions

    def group_text(self, buckets: bytes) -> str:
        """The buckets of a group row, to be read by people."""
        try:
            return " | ".join(self._bucket_texts(buckets))
        except Exception as error:  # noqa: BLE001 - as above
            LOG.debug("%s can't be read by the OpenFlow library: %r", buckets.hex(), error)
            return buckets.hex()

    def bands_text(self, bands: bytes) -> str:
        """What a meter does, to be read by people."""
        try:
            band = self.parser.OFPMeterBandHeader.parser(bands, 0)
            return f"drop over {band.rate} packets/s, burst {band.burst_size}"
        except Exception as error:  # noqa: BLE001 - as above
            LOG.debug("%s can't be read by the OpenFlow library: %r", bands.hex(), error)
            return bands.hex()

    def _field_texts(self, match: Any) -> Iterator[str]:
        for name, value in match.items():
            value, mask = value if isinstance(value, tuple) else (value, None)
            if name == "vlan_vid" and mask is None:
                value &= 0xFFF
            elif name == "eth_type":
                value = f"{value:#06x}"
            yield f"{name}={value}" + (f"/{mask}" if mask is not None else "")

    def _bucket_texts(self, buckets: bytes) -> Iterator[str]:
        offset = 0
        while offset < len(buckets):
            bucket = self.parser.OFPBucket.parser(buckets, offset)
            offset += _checked(bucket.len)
            actions = " ".join(map(self._action_text, bucket.actions))
            yield f"weight={bucket.weight} {actions}" if bucket.weight else actions

    def _instruction_texts(self, row: bytes, offset: int) -> Iterator[str]:
        while offset < len(row):
            instruction = self.parser.OFPInstruction.parser(row, offset)
            offset += _checked(instruction.len)
            if hasattr(instruction, "actions"):
                yield from map(self._action_text, instruction.actions)
            elif hasattr(instruction, "meter_id"):
                yield f"meter:{instruction.meter_id:#x}"
            else:
                yield f"goto:{self._pipeline.table_name(getattr(instruction, 'table_id', -1))}"

    def _action_text(self, action: Any) -> str:
        name = type(action).__name__.removeprefix("OFPAction").removeprefix("NXAction")
        match name:
            case "SetField":
                value = action.value & 0xFFF if action.key == "vlan_vid" else action.value
                return f"set:{action.key}={value}"
            case "Output":
                reserved = {self.ofproto.OFPP_IN_PORT: "IN_PORT"}
                return f"output:{reserved.get(action.port, action.port)}"
            case "ResubmitTable":
                return f"resubmit:{self._pipeline.table_name(action.table_id)}"
            case "RegMove":
                return f"move:{action.src_field}->{action.dst_field}"
            case "CheckPacketLarger":
                return f"check_larger:{action.size}->{action.dst_field}[{action.bit}]"
            case "Conjunction":
                return f"conjunction:{action.id},{action.clause + 1}/{action.n_clauses}"
            case "Controller":
                return f"controller:{action.controller_id:#x}"
            case "Group":
                return f"group:{action.group_id:#x}"
            case "Learn" | "Learn2":
                return f"learn:{self._pipeline.table_name(action.table_id)}"
        return name

    # -- from templates to the library's objects ---------------------------------------------

    def _build(
        self,
        template: FlowTemplate | GroupTemplate,
        name: str,
        arguments: Mapping[str, Any],
        values: Mapping[str, Any],
    ) -> Any:
        cls = getattr(self.parser, name, None)
        if cls is None:
            raise self._error(template, f"the OpenFlow library has no {name}")
        return cls(**{k: self._resolve(template, v, values) for k, v in arguments.items()})

    def _resolve(
        self, template: FlowTemplate | GroupTemplate, value: Any, values: Mapping[str, Any]
    ) -> Any:
        """Parameters, table names and constants to values; nested classes to objects."""
        if isinstance(value, str):
            if value.startswith("$"):
                name = value[1:]
                return self._pipeline.learned_cookie if name == "learned_cookie" else values[name]
            if value in self._pipeline.tables:
                return self._pipeline.tables[value].id
            if value.startswith("OFPP_"):
                return getattr(self.ofproto, value)
            if value in self._pipeline.groups and value not in self._group_ids:
                raise self._error(template, f"group {value} is another for each flood: $group")
            return self._group_ids.get(value, value)
        if isinstance(value, list):
            return tuple(self._resolve(template, item, values) for item in value)
        if isinstance(value, dict) and len(value) == 1:
            ((name, arguments),) = value.items()
            return self._build(template, name, arguments, values)
        return value

    def _error(self, template: FlowTemplate | GroupTemplate, reason: str) -> PipelineError:
        return PipelineError(f"flows/{template.file}: template {template.name}: {reason}")


def _checked(length: int) -> int:
    """The length of something read, which must lead on."""
    if length < 8:
        raise ValueError(f"a length of {length}")
    return length
