"""Dataplanes behind one interface, :mod:`ovs_l2pop.core.backend`.

::

    loader.py      backends by name, from their entry points
    openvswitch/   flows on bridges, by OpenFlow and OVSDB
    linuxbridge/   entries of bridges and vxlan devices, by netlink

A new one is a package beside them and an entry point in the group ``ovs_l2pop.backends``.
"""
