"""Dataplanes behind one interface.

::

    interface.py   what a backend is asked for, and what it answers
    loader.py      backends by name, from their entry points
    openvswitch/   flows on bridges, by OpenFlow and OVSDB
    linuxbridge/   entries of bridges and vxlan devices, by netlink
"""
