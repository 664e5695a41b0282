"""The generated documents are those of today's pipeline."""

from pathlib import Path

from ovs_l2pop import resources
from ovs_l2pop.backends.openvswitch import pipeline
from ovs_l2pop.cli.pipeline import markdown, rows

DOC = Path(__file__).parents[2] / "doc" / "pipeline.md"


def test_pipeline_doc_is_up_to_date() -> None:
    made = "\n".join(markdown(pipeline.load(resources.flows()))) + "\n"
    assert DOC.read_text() == made, "run: make doc"


def test_every_template_table_and_group_is_listed() -> None:
    loaded = pipeline.load(resources.flows())
    listed = list(rows(loaded))
    assert {row[3] for row in listed} >= {*loaded.templates, *loaded.groups}
    agents_alone, learned_alone = {"DVR_NOT_LEARN"}, {"ANNOUNCED", "MOVED"}
    assert {row[0] for row in listed} == {*loaded.tables, "group"} - agents_alone - learned_alone
