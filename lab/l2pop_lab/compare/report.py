"""Results as one HTML file that needs nothing else."""

from importlib import resources

from jinja2 import Environment
from markupsafe import Markup

from l2pop_lab.compare import plots, words
from l2pop_lab.compare.results import SIDES, Results


def html(results: Results) -> str:
    """Return the report; all that comes from the run is escaped."""
    template = resources.files("l2pop_lab.compare").joinpath("report.html").read_text()
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    drawn = plots.plots(results)
    sections = list(dict.fromkeys(figure.section for figure in results.figures))
    return environment.from_string(template).render(
        results=results,
        sides=SIDES,
        where=results.environment,
        cautions=words.cautions(results),
        opening=words.opening(results),
        groups=words.groups(results),
        failures=list(results.failures()),
        sections=[
            (
                section,
                [figure for figure in results.figures if figure.section == section],
                [
                    (plot.key, plot.title, Markup(plot.svg))
                    for plot in drawn
                    if plot.section == section
                ],
            )
            for section in sections
        ],
        feature_sections=[
            (section, [feature for feature in results.features if feature.section == section])
            for section in dict.fromkeys(feature.section for feature in results.features)
        ],
        beside=words.beside_others(results),
        beside_title=words.BESIDE,
        measured=words.measured,
        number=words.number,
    )
