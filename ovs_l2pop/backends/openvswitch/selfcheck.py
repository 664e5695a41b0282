"""Does this Open vSwitch return flows in the bytes in which they were sent?

It keeps flows in a form of its own and writes them anew when asked: fields of a match in another
order, an action in another encoding. Templates are written as Open vSwitch 3.1 returns them, so
that rows compare as bytes. For any other version, one of each template is written to a table that
nothing leads to and read back, and the templates are compiled from what came.
"""

import logging

from ovs_l2pop.backends.openvswitch import rows
from ovs_l2pop.backends.openvswitch.channel import Channel
from ovs_l2pop.backends.openvswitch.codec import Codec
from ovs_l2pop.backends.openvswitch.pipeline import Pipeline
from ovs_l2pop.backends.openvswitch.stamps import Stamps

LOG = logging.getLogger(__name__)

_GOTO = bytes.fromhex("00010008")  # OFPIT_GOTO_TABLE, length


def compile_as_returned(pipeline: Pipeline, codec: Codec, channel: Channel) -> Stamps:
    """The pipeline compiled from rows as the switch returns them; leaves no flow behind.

    :raises BackendError: the switch can't be reached.
    """

    spare = pipeline.spare_table

    def echo(row: bytes) -> bytes:
        # The flow's own table can't take it without effect; a goto must lead behind the spare one.
        table, goto = row[:1], row[-4:]
        leads_back = row[-8:-4] == _GOTO and goto[0] <= spare
        sent = bytes([spare]) + row[1:]
        if leads_back:
            sent = sent[:-4] + bytes([spare + 1]) + sent[-3:]
        refused = channel.write(rows.add_flows([sent], pipeline.learned_cookie))
        came = [
            flow
            for body in channel.flows(pipeline.learned_cookie)
            for flow in rows.flows_in(body)
            if flow[0] == spare
        ]
        channel.write([rows.delete_flows(pipeline.learned_cookie, spare)])
        if refused or len(came) != 1:
            # Some can't stand alone, such as one that names a group that isn't there yet.
            LOG.debug("no echo of %s: %s", row.hex(), refused)
            return row
        returned = table + came[0][1:]
        return returned[:-4] + goto if leads_back else returned

    return Stamps(pipeline, codec, echo)
