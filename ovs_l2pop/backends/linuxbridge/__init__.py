"""The Linux bridge backend: a vxlan device per network, its entries, and who answers ARP and ND.

Pure::

    options.py        the group [vxlan], checked, as settings; the multicast group of a VNI
    rows.py           rows and names
    render.py         facts to rows
    plan.py           rows to add and to remove, and what is there → what is written, in which order
    settings.py       what devices, ports and bridges of ours must be set to

What carries it out::

    links.py          network devices as values, and the messages about them
    entries.py        forwarding entries and neighbours, between rows and messages
    guard.py          who may send into a network: a packet filter of its own
    news.py           what the kernel tells of changes that others make
    responder.py      who answers ARP and ND: filters at the tunnel, and what they know
    ebpf.py           the filters' programs and their map: assembled, and loaded into the kernel
    underlay.py       the device behind the VTEP's address, and what fits through it
    probe.py          what this kernel can do, tried in a namespace of its own
    devices.py        tunnels and bridges made, changed, replaced and deleted
    writing.py        one write: batch by batch, as planned
    backend.py        all of it behind the shared interface
"""
