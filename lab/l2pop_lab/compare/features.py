"""The checks, and what they ask: each does something on one side and says what was seen.

None has an answer of its own accord: "yes" and "no" come from frames, entries and exit codes.
"""

from collections.abc import Callable
from dataclasses import dataclass

from l2pop_lab.compare import checks_answers, checks_operation, checks_tunnels, checks_ways
from l2pop_lab.compare.checking import Places
from l2pop_lab.compare.results import Cell


@dataclass(frozen=True, slots=True)
class Check:
    """A question and how it is answered."""

    key: str
    section: str
    question: str
    meaning: str
    run: Callable[[Places], Cell]


WHO, WHERE, TUNNELS, OPERATION = (
    "Who answers",
    "Where frames go",
    "Tunnels",
    "Operation",
)


CHECKS = tuple(
    Check(*row)
    for row in (
        (
            "arp-known",
            WHO,
            "ARP for a known address is answered on the host",
            "No broadcast crosses the underlay.",
            checks_answers.arp_known,
        ),
        (
            "nd-known",
            WHO,
            "IPv6 neighbour solicitations are, too",
            "IPv6 networks stay as quiet as IPv4's.",
            checks_answers.nd_known,
        ),
        (
            "unknown-asked",
            WHO,
            "Questions for unknown addresses are forwarded",
            "VIPs and machines that nobody announced are found.",
            checks_answers.unknown_asked,
        ),
        (
            "announcements",
            WHO,
            "Gratuitous ARP and unsolicited advertisements go through",
            "Failover of a VIP, and live migration, are noticed at once.",
            checks_answers.announcements,
        ),
        (
            "probes",
            WHO,
            "Probes and duplicate address detection go through",
            "Only the real holder may say that an address is taken.",
            checks_answers.probes,
        ),
        (
            "tagged",
            WHO,
            "Requests with a VLAN tag of the machine's own are answered with it",
            "Matters where machines run VLANs inside their network.",
            checks_answers.tagged,
        ),
        (
            "known-unicast",
            WHERE,
            "Unicast to an announced machine goes to its host alone",
            "Nobody else sees the traffic.",
            checks_ways.known_unicast,
        ),
        (
            "broadcast",
            WHERE,
            "Broadcast goes to hosts that have the network, and no other",
            "Head-end replication costs a copy for each.",
            checks_ways.broadcast,
        ),
        (
            "unknown-unicast",
            WHERE,
            "Unknown unicast reaches every host of the network",
            "Machines that nobody announced can be reached.",
            checks_ways.unknown_unicast,
        ),
        (
            "learned",
            WHERE,
            "A machine that nobody announced is learned when it speaks",
            "The flooding for it ends.",
            checks_ways.learned,
        ),
        (
            "learned-moves",
            WHERE,
            "A learned machine that moves is followed",
            "Virtual MACs fail over without the server.",
            checks_ways.learned_moves,
        ),
        (
            "announced-moves",
            WHERE,
            "An announced machine that moves is followed",
            "What live migration needs of the messages.",
            checks_ways.announced_moves,
        ),
        (
            "early",
            WHERE,
            "A migrated machine is heard before its new place is announced",
            "The gap at the end of a live migration.",
            checks_ways.moved_before_its_announcement,
        ),
        (
            "changed-address",
            WHERE,
            "A changed address is answered, the old one no longer",
            "update_fdb_entries with chg_ip.",
            checks_ways.changed_address,
        ),
        (
            "same-addresses",
            WHERE,
            "Two networks may have the same MAC and IP addresses",
            "Tenants choose their own.",
            checks_ways.same_addresses,
        ),
        ("ipv6-vteps", TUNNELS, "IPv6 VTEPs", "The underlay may be IPv6 only.", checks_tunnels.six),
        ("gre", TUNNELS, "GRE tunnels", "Networks of type gre.", checks_tunnels.gre),
        ("geneve", TUNNELS, "Geneve tunnels", "Networks of type geneve.", checks_tunnels.geneve),
        (
            "interoperates",
            TUNNELS,
            "Hosts of the other backend are in the same network",
            "A cloud may have both, and move host by host.",
            checks_tunnels.interoperates,
        ),
        (
            "mtu",
            TUNNELS,
            "A port whose packets don't fit the tunnel is told of",
            "Else everything works but large packets.",
            checks_tunnels.too_large,
        ),
        (
            "agent-restart",
            OPERATION,
            "The agent restarts without a lost packet",
            "Upgrades need no maintenance window.",
            checks_operation.agent_restart,
        ),
        (
            "agent-away",
            OPERATION,
            "Forwarding and answers go on while the agent is away",
            "It is not in the path of packets.",
            checks_operation.works_without_agent,
        ),
        (
            "switch-restart",
            OPERATION,
            "The switch restarts and all is written again",
            "By the running agent, without the server.",
            checks_operation.switch_restart,
        ),
        (
            "drift",
            OPERATION,
            "check finds what somebody deleted",
            "What is wrong can be seen.",
            checks_operation.finds_drift,
        ),
        (
            "repair",
            OPERATION,
            "repair writes it again",
            "Without a restart.",
            checks_operation.repairs,
        ),
        (
            "mends-itself",
            OPERATION,
            "The agent mends it unasked",
            f"Within {checks_operation.UNASKED:g} s; else check has to be run.",
            checks_operation.mends_itself,
        ),
        (
            "strangers",
            OPERATION,
            "An entry that isn't the agent's stays",
            "Others may write beside it.",
            checks_operation.strangers,
        ),
        (
            "bad-entry",
            OPERATION,
            "A bad entry is refused with a reason, the good ones apply",
            "One mistake of a server doesn't cost a network.",
            checks_operation.bad_entry,
        ),
        # The last one: it leaves the agents of the pair in another mode.
        (
            "multicast",
            TUNNELS,
            "Works without l2pop, by multicast groups",
            "One copy of a broadcast, whatever the number of VTEPs.",
            checks_tunnels.multicast,
        ),
    )
)
"""All checks, in the order in which they run and are shown."""
