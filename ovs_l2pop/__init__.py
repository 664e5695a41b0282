"""L2 population for OpenStack Neutron on Open vSwitch.

The way of a message, by file name::

    core/messages.py → core/table.py → backends/<name>/render.py (rows)
        → core/reconciler.py → backends/<name>/ (writes)

``messages`` validates what arrives and turns it into changes; ``table`` keeps what should be and
resolves conflicting claims into facts; a backend renders facts into rows; ``reconciler`` compares
wanted rows with installed ones and has the backend write the difference.

::

    core/          what should be: pure, and the same for every dataplane
    backends/      dataplanes behind one interface
    agent/         the worker of a host, and what it owns
    sync/          what a host and a server with our driver say to each other
    daemon/        a host without Neutron's agent that listens to a Neutron server
    netlink/       the kernel's netlink
    neutron/       the mechanism driver, and the extension of Neutron's agent
    cli/           the command
    config.py      the options of an agent
    lockfile.py    one process at a time
    resources.py   where flows/ and etc/ lie
    paths.py       where things are by default
"""
