"""Reading what ping prints."""

import pytest

from l2pop_lab.errors import LabError
from l2pop_lab.topology.ping import PingResult, parse

HEAD = "PING 10.0.0.2 (10.0.0.2) 56(84) bytes of data.\n"


def answer(number: int, rtt: str = "0.5", suffix: str = "") -> str:
    return f"64 bytes from 10.0.0.2: icmp_seq={number} ttl=64 time={rtt} ms{suffix}\n"


def summary(sent: int, received: int) -> str:
    return (
        "\n--- 10.0.0.2 ping statistics ---\n"
        f"{sent} packets transmitted, {received} received, 0% packet loss, time 9ms\n"
    )


def test_all_answered() -> None:
    result = parse(HEAD + answer(1, "1.25") + answer(2) + summary(2, 2))
    assert result == PingResult(2, 2, [1.25, 0.5], 0, [])
    assert result.lost == result.longest_gap == 0


def test_losses_and_longest_gap() -> None:
    result = parse(HEAD + answer(1) + answer(3) + answer(6) + summary(7, 3))
    assert result.lost_sequences == [2, 4, 5, 7]
    assert result.lost == 4
    assert result.longest_gap == 2


def test_duplicates_count_apart() -> None:
    result = parse(HEAD + answer(1) + answer(1, suffix=" (DUP!)") + summary(1, 1))
    assert (result.received, result.duplicates) == (1, 1)


def test_error_report_is_no_answer() -> None:
    report = "From 10.0.0.1 icmp_seq=1 Destination Host Unreachable\n"
    assert parse(HEAD + report + summary(1, 0)).lost == 1


def test_request_under_way_at_the_interrupt_is_left_out() -> None:
    output = HEAD + answer(1) + answer(2) + summary(3, 2)
    assert parse(output, interrupted=True) == PingResult(2, 2, [0.5, 0.5], 0, [])
    assert parse(output).lost == 1


def test_sequence_numbers_start_over_after_65535() -> None:
    numbers = [*range(65530, 65536), 0, 1, 2]
    lines = "".join(answer(number) for number in range(1, 65530)) + "".join(map(answer, numbers))
    assert parse(lines + summary(65538, 65538)).lost_sequences == []


def test_no_summary() -> None:
    with pytest.raises(LabError, match="no summary"):
        parse("ping: socket: Operation not permitted\n")
