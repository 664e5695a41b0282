"""The fuzz targets themselves, for a moment; ``make fuzz`` takes longer."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from targets import SEEDS, TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)
    TARGETS[name](b"\n".join(SEEDS[name]))


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes(name: str, data: bytes) -> None:
    TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_seeds(name: str) -> None:
    choice = random.Random(7)
    for _ in range(1500):
        data = bytearray(choice.choice(SEEDS[name]))
        for _ in range(choice.randrange(1, 6)):
            at = choice.randrange(len(data) + 1)
            what = choice.choice([b"", bytes([choice.randrange(256)]), data[at : at + 9], b"null"])
            data[at : at + choice.randrange(3)] = what
        TARGETS[name](bytes(data))
