"""Inside Neutron.

::

    server/       the ML2 mechanism driver
    agent/        a host on which Neutron's own agent runs
"""
