"""A host inside Neutron.

::

    options.py     the extension's options
    extension.py   the extension of neutron-openvswitch-agent: what the agent tells it
"""
