"""Every word of ``flows/*.yaml`` that means something means something: changed, it changes what is
written, or is refused.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from ovs_l2pop import resources
from ovs_l2pop.backends.openvswitch import pipeline, selfcheck
from ovs_l2pop.backends.openvswitch.codec import Codec
from ovs_l2pop.backends.openvswitch.pipeline import SETTINGS
from ovs_l2pop.backends.openvswitch.plan import Planner
from ovs_l2pop.backends.openvswitch.render import FLOOD_SHARD_SIZE, FlowRenderer, PortNumbers
from ovs_l2pop.backends.openvswitch.stamps import Stamps
from ovs_l2pop.core.difference import Row
from ovs_l2pop.core.errors import PipelineError
from ovs_l2pop.core.messages import MAX_SEGMENT_ID, Attachment, Segment
from ovs_l2pop.core.table import (
    Fact,
    FloodFact,
    LocalFact,
    LocalNeighbourFact,
    NeighbourFact,
    NetworkFact,
    UnicastFact,
    VtepFact,
)

FILES = ("tables.yaml", "skeleton.yaml", "l2pop.yaml")
#: For people alone; documents and listings show it.
PROSE = {"why", "purpose", "name"}
MAC = "fa:16:3e:00:00:01"
OPTIONS = dict.fromkeys(MAX_SEGMENT_ID, (("in_key", "flow"),))

Path_ = tuple[Any, ...]  #: keys and places that lead to a word


def facts() -> Iterator[Fact]:
    """At least one for every template."""
    for number, kind in enumerate(MAX_SEGMENT_ID, 1):
        here = Attachment(f"network {number}", Segment(kind, 1000 + number), number)
        vteps = tuple(f"10.9.{n // 250}.{n % 250 + 1}" for n in range(FLOOD_SHARD_SIZE + 1))
        yield from (NetworkFact(here, True), NetworkFact(here, False), VtepFact(here, vteps[0]))
        yield from (UnicastFact(here, MAC, vteps[0]), LocalFact(here, MAC))
        yield from (NeighbourFact(here, ip, MAC) for ip in ("10.0.0.1", "2001:db8::1"))
        yield from (LocalNeighbourFact(here, ip, MAC) for ip in ("10.0.0.2", "2001:db8::2"))
        for router, override in itertools.product((False, True), repeat=2):
            yield NeighbourFact(here, "2001:db8::1", MAC, router, override)
        quiet = here._replace(unknown_unicast="drop", unknown_neighbour="drop")
        yield NetworkFact(quiet, True)
        yield from (FloodFact(here, vteps[:2]), *([FloodFact(here, vteps)] if number == 1 else []))


FACTS = tuple(facts())


class Remembering(Codec):
    """What was built for one mutant is mostly the same for the next."""

    built: ClassVar[dict[str, Any]] = {}

    def match(self, template: Any, extra: Any, values: Any) -> bytes:
        key = f"{template.match} {extra} {values}"
        if key not in self.built:
            self.built[key] = super().match(template, extra, values)
        found: bytes = self.built[key]
        return found

    def actions(self, template: Any, actions: Any, values: Any) -> list[bytes]:
        numbers = {name: table.id for name, table in self._pipeline.tables.items()}
        cookies = self._pipeline.learned_cookie, self._pipeline.groups.keys()
        key = f"{actions} {values} {numbers} {cookies}"
        if key not in self.built:
            self.built[key] = super().actions(template, actions, values)
        return list(self.built[key])


class Echo:
    """A switch that returns what it is sent, but says to which table it came."""

    def __init__(self) -> None:
        self.tables: set[int] = set()

    def write(self, messages: Any) -> list[Any]:
        self.tables.update(body[16] for _, body in messages)
        return []

    def flows(self, cookie: int) -> list[bytes]:
        return []


def outcome(directory: Path) -> Iterator[object]:
    """All that comes of the files, bit by bit: numbers, rows in every setting, what a plan makes of
    them, and what the self-check sends.

    :raises PipelineError: they are refused.
    """
    loaded = pipeline.load(directory)
    yield loaded.cookie, loaded.learned_cookie, [table.id for table in loaded.learned]
    codec = Remembering(loaded)
    stamps = Stamps(loaded, codec)
    flow = {"flow_tunnels", "known_vteps_only"}
    for conditions in (
        *(SETTINGS, flow, flow | {"underlay_ipv6"}, flow | {"distributed"}),
        *(SETTINGS - {"flow_tunnels"}, {"known_vteps_only"}, {"shared"}, {"distributed"}, ()),
    ):
        renderer = FlowRenderer(stamps, PortNumbers(), OPTIONS, conditions)
        yield renderer.static(7)
        for fact in FACTS:
            yield renderer.rows(fact)
    rows: list[Row] = [row for fact in FACTS for row in renderer.rows(fact)]
    planner = Planner(stamps, codec)
    yield planner.plan(rows, [], 0.0), planner.plan([], rows, 1.0)
    echo = Echo()
    selfcheck.compile_as_returned(loaded, codec, echo)  # type: ignore[arg-type]
    yield echo.tables


CONTENT = json.dumps(
    {name: yaml.safe_load((resources.flows() / name).read_text()) for name in FILES}
)


def content() -> dict[str, Any]:
    """The files, to be changed."""
    found: dict[str, Any] = json.loads(CONTENT)
    return found


def words(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Where every word is."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in PROSE:
                yield from words(item, (*path, key))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from words(item, (*path, place))
    else:
        yield path


def others(word: object) -> Iterator[object]:
    """What could stand there instead: of the same kind, so that a number stays one."""
    if isinstance(word, bool):
        yield not word
    elif isinstance(word, int):
        yield word + 1
    else:
        text = str(word)
        yield text + "x"
        for one, other in (
            *(("all", "select"), ("select", "all"), ("IN_PORT", "LOCAL")),
            *(
                ("VXLAN", "GRE"),
                ("GRE_", "GENEVE_"),
                ("GENEVE", "VXLAN"),
                ("LEARN_FROM", "UCAST_TO"),
            ),
            *(("$vlan", "$segment"), ("$mac", "$vlan"), ("arp_spa", "arp_tpa")),
            *(("eth_src", "eth_dst"), ("ff:ff:ff", "ff:ff:fe"), ("0.0.0.0", "0.0.0.1")),
        ):
            if one in text:
                yield text.replace(one, other)


def mutants() -> Iterator[tuple[str, Path_, object]]:
    """(what, where, the word that takes the place; ``KeyError``: it is gone)."""
    sound = content()
    for path in words(sound):
        word: Any = sound
        for step in path:
            word = word[step]
        for other in others(word):
            yield f"{'.'.join(map(str, path))}={other}", path, other
    for file, whole in sound.items():
        for section in whole:
            items = whole[section] if isinstance(whole[section], list) else []
            for place, item in enumerate(items):
                yield f"{file} without {section} {item['name']}", (file, section, place), KeyError
                for key in item.keys() - PROSE - {"table", "priority", "for", "id"}:
                    yield f"{item['name']} without {key}", (file, section, place, key), KeyError


def written(files: dict[str, Any], directory: Path) -> Path:
    for name, whole in files.items():
        # JSON is YAML too, and 20 times faster to write.
        (directory / name).write_text(json.dumps(whole))
    return directory


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    return list(outcome(written(content(), tmp_path_factory.mktemp("flows"))))


@pytest.mark.parametrize("file", FILES)
def test_a_word_changed_is_seen_or_refused(
    file: str, sound: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # … and to read.
    monkeypatch.setattr("yaml.load", lambda text, _: json.loads(text))
    survivors = []
    count = 0
    for what, path, other in mutants():
        if path[0] != file:
            continue
        count += 1
        files = content()
        place: Any = files
        for step in path[:-1]:
            place = place[step]
        if other is KeyError:
            del place[path[-1]]
        else:
            place[path[-1]] = other
        try:
            found = itertools.zip_longest(outcome(written(files, tmp_path)), sound)
            if all(one == other for one, other in found):
                survivors.append(what)
        except PipelineError as refused:
            assert "flows/" in str(refused)  # noqa: PT017 - it is none of the file's words that failed
    assert count > 10
    assert survivors == []
