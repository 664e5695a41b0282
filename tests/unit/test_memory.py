"""Which requests for a table are one."""

from ovs_l2pop.neutron.server.memory import KnownPort, Memory

HOST, NETWORK = "compute-1", "7a1c4bd0-95a3-4e0e-8e2a-5f0a6c1d9b11"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def served(number: int) -> tuple[Memory, Clock]:
    """A host that has just got a table when it had so many ports."""
    clock = Clock()
    memory = Memory(clock)
    ports = [KnownPort(f"port{n}", 1, False, 0.0) for n in range(number)]
    memory.sent_table(HOST, NETWORK, ports)
    return memory, clock


def test_one_table_answers_all_ports_however_slow_the_server_is() -> None:
    memory, clock = served(20)
    for number in range(20):
        clock.now += 3
        assert memory.take_served(HOST, NETWORK, f"port{number}")


def test_a_port_that_asks_again_gets_a_table() -> None:
    memory, _ = served(2)
    assert memory.take_served(HOST, NETWORK, "port1")
    assert not memory.take_served(HOST, NETWORK, "port1")


def test_after_a_pause_it_is_asked_in_earnest() -> None:
    memory, clock = served(2)
    assert memory.take_served(HOST, NETWORK, "port0")
    clock.now += 6
    assert not memory.take_served(HOST, NETWORK, "port1")


def test_a_port_that_was_not_there_is_not_served() -> None:
    memory, _ = served(2)
    assert not memory.take_served(HOST, NETWORK, "port2")
