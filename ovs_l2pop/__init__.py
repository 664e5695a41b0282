"""L2 population for OpenStack Neutron on Open vSwitch.

The way of a message, by file name::

    messages.py → table.py → backends/<name>/ (rows) → reconciler.py → backends/<name>/ (writes)

``messages`` validates what arrives and turns it into changes; ``table`` keeps what should be and
resolves conflicting claims into facts; a backend renders facts into rows; ``reconciler`` compares
wanted rows with installed ones and has the backend write the difference.
"""
