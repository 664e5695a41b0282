"""``ovs-l2pop compare``: both backends side by side, measured in one run.

::

    streams.py       sizes, and the messages that both sides get        pure
    results.py       what was measured, to JSON and back                pure
    words.py         results → sentences and rows of text               pure
    questions.py     frames that ask, rightly and wrongly, by RFC       pure
    sides.py         a side: hosts of one backend, agents, machines     I/O
    dataplanes.py    what only one backend has: its own tools           I/O
    responders.py    hosts of others' responders: Neutron's, FRR's, …   I/O
    traffic.py       frames, pings and bytes between machines           I/O
    measurements.py  the steps in which figures are taken, in order     I/O
    measure_*.py     the figures, each taken on one side                I/O
    steps.py         what a step and its figures are made of            pure
    usage.py         memory and processor time of processes             I/O
    features.py      the list of checks, and what they ask              I/O
    checks_*.py      the checks, each of which gives a cell             I/O
    checking.py      what checks have in common                         I/O
    run.py           the whole comparison, in order                     I/O
    environment.py   what it ran on                                     I/O
    plots.py         figures → SVG, with matplotlib                     pure
    report.py        results → the HTML report, with jinja2             pure
"""
