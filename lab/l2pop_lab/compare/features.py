"""The checks, and what they ask: each does something on one side and says what was seen.

None has an answer of its own accord: "yes" and "no" come from frames, entries and exit codes.
"""

from collections.abc import Callable
from dataclasses import dataclass

from l2pop_lab.compare import (
    checks_answers,
    checks_conformance,
    checks_operation,
    checks_tunnels,
    checks_ways,
)
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


WHO, RESPONDER, WHERE, TUNNELS, OPERATION = (
    "Who answers",
    "What a responder may say",
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
            "flags",
            RESPONDER,
            "Advertisements have the owner's flags",
            "RFC 4861 4.4, 7.2.4; RFC 9047: else a default route is lost.",
            checks_conformance.flags,
        ),
        (
            "invalid",
            RESPONDER,
            "Invalid solicitations are not answered",
            "RFC 4861 7.1.1: hop limit, code, source, lengths.",
            checks_conformance.invalid,
        ),
        (
            "checksum",
            RESPONDER,
            "Solicitations with a wrong checksum are not answered",
            "RFC 4861 7.1.1.",
            checks_conformance.checksum,
        ),
        (
            "incomplete",
            RESPONDER,
            "What can't be answered completely goes on to the owner",
            "RFC 3971, RFC 7527, RFC 9161 3.2: other options, extension headers.",
            checks_conformance.incomplete,
        ),
        (
            "undisturbed",
            RESPONDER,
            "A wrong question spoils no right one after it",
            "RFC 4861 7.1.1: nothing of it stays in a cache.",
            checks_conformance.one_after_the_other,
        ),
        (
            "no-requests",
            RESPONDER,
            "What is no ARP request is not answered",
            "RFC 826: operation, types, lengths.",
            checks_conformance.no_requests,
        ),
        (
            "asks-for-another",
            RESPONDER,
            "The reply goes to the one that asks in the packet",
            "RFC 826.",
            checks_conformance.asks_for_another,
        ),
        (
            "padded",
            RESPONDER,
            "Padding is no part of a question",
            "RFC 894.",
            checks_conformance.padded,
        ),
        (
            "own-tags",
            RESPONDER,
            "Questions behind a VLAN tag of the machine's own are another network's",
            "RFC 7348 6.1.",
            checks_conformance.own_tags,
        ),
        (
            "taken-over",
            RESPONDER,
            "After an announcement by another MAC the old one is not told",
            "RFC 9161 3.6: a failover that the server does not know of yet.",
            checks_conformance.taken_over,
        ),
        (
            "unicast-questions",
            RESPONDER,
            "Unicast questions go to the owner",
            "RFC 1122 2.3.2.1, RFC 4861 7.3.3: whether he is still there.",
            checks_conformance.unicast_questions,
        ),
        (
            "same-host",
            RESPONDER,
            "A question for a machine of the same host stays there",
            "No copy to any VTEP.",
            checks_conformance.same_host,
        ),
        (
            "unknown-dropped",
            RESPONDER,
            "Who isn't known can be left unheard of, by network",
            "RFC 9161 3.6.",
            checks_conformance.unknown_dropped,
        ),
        (
            "group-source",
            RESPONDER,
            "What comes from a group address goes nowhere",
            "IEEE 802 8.2.2.",
            checks_conformance.group_source,
        ),
        (
            "duplicate",
            RESPONDER,
            "An address that two claim in turn is held where it was",
            "RFC 7432 15.1: five moves in 180 s.",
            checks_conformance.duplicate,
        ),
        (
            "sticky",
            RESPONDER,
            "A sticky address never moves",
            "RFC 7432 15.2.",
            checks_conformance.sticky,
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

BY_FRAMES = tuple(
    check
    for check in CHECKS
    if check.section == RESPONDER and check.key not in ("unknown-dropped", "duplicate", "sticky")
)
"""Those that a responder decides, and not who tells it what it knows."""
