"""The pipeline as a switch returns it."""

from collections.abc import Callable, Iterable, Iterator

import pytest

from ovs_l2pop import resources
from ovs_l2pop.backends.openvswitch import pipeline
from ovs_l2pop.backends.openvswitch.channel import Message, Refused
from ovs_l2pop.backends.openvswitch.codec import Codec
from ovs_l2pop.backends.openvswitch.selfcheck import compile_as_returned
from ovs_l2pop.backends.openvswitch.stamps import Stamps

PIPELINE = pipeline.load(resources.flows())
CODEC = Codec(PIPELINE)
STAMPS = Stamps(PIPELINE, CODEC)


class Switch:
    """Takes flows of one table, and returns them as it pleases.

    :param returns: what becomes of match and instructions; None: it refuses the flow.
    """

    def __init__(self, returns: Callable[[bytes], bytes | None]) -> None:
        self.flow = b""
        self._returns = returns

    def write(self, messages: Iterable[Message]) -> list[Refused]:
        for _, body in messages:
            deletes, table = body[17] == 3, body[16]
            assert table == PIPELINE.spare_table
            self.flow = b""
            if not deletes:
                goto = body[-4] if body[-8:-4] == bytes.fromhex("00010008") else 255
                assert goto > table, "a goto leads forward"
                returned = self._returns(body[40:])
                if returned is None:
                    return [Refused(0, "no")]
                self.flow = bytes([table]) + body[22:24] + returned
        return []

    def flows(self, cookie: int) -> Iterator[bytes]:
        assert cookie == PIPELINE.learned_cookie
        if self.flow:
            size = 48 + len(self.flow) - 3
            head = size.to_bytes(2, "big") + self.flow[:1] + bytes(9) + self.flow[1:3] + bytes(34)
            yield head + self.flow[3:]


@pytest.mark.parametrize("returns", [bytes, lambda flow: None], ids=["as sent", "refused"])
def test_what_comes_as_it_was_sent_compiles_to_the_same(
    returns: Callable[[bytes], bytes | None],
) -> None:
    switch = Switch(returns)
    compiled = compile_as_returned(PIPELINE, CODEC, switch)  # type: ignore[arg-type]
    assert compiled.same_rows(STAMPS)
    assert switch.flow == b"", "nothing is left behind"


def test_what_comes_otherwise_is_compared_otherwise() -> None:
    """Another order of the fields of a match."""
    field = bytes.fromhex("80000a02")  # eth_type

    def returns(flow: bytes) -> bytes:
        at = flow.find(field)
        if at <= 4:
            return flow
        return flow[:4] + flow[at : at + 6] + flow[4:at] + flow[at + 6 :]

    compiled = compile_as_returned(PIPELINE, CODEC, Switch(returns))  # type: ignore[arg-type]
    assert not compiled.same_rows(STAMPS)
    row = compiled.static["broadcast_arp"][0]
    assert row[0] == PIPELINE.templates["broadcast_arp"].table.id
    assert row[7:11] == field
    assert row[-4] == PIPELINE.tables["ARP_RESPONDER"].id
