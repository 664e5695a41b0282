"""Do instances reach each other?"""

from collections.abc import Sequence

from neutronlab.things import Instance
from neutronlab.waiting import wait_until


def reach_each_other(instances: Sequence[Instance]) -> None:
    """Ping from everywhere to everywhere, with empty neighbour tables."""
    for source in instances:
        source.machine.forget_neighbours()
    for source in instances:
        for target in instances:
            if source is not target:
                for address in target.port.ips:
                    result = source.machine.ping(address, count=2)
                    assert (result.lost, result.duplicates) == (0, 0), (source.ip, address, result)


def wait_until_reachable(source: Instance, target: Instance, timeout: float = 20.0) -> None:
    """Wait for br-int too, which is the stock agent's, after a restart of Open vSwitch."""
    wait_until(
        lambda: source.machine.ping(target.ip, count=1).lost == 0,
        f"{target.ip} answers {source.ip}",
        timeout,
    )
