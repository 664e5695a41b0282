"""A host inside Neutron.

::

    options.py     the extension's options
    extension.py   the extension of neutron-openvswitch-agent: what the agent tells it
    follower.py    what the server tells: updates, and asking for all (knows no Neutron)
    endpoint.py    the follower's end of RPC
"""
