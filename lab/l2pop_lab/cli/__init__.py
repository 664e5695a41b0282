"""The laboratory's commands.

::

    demo.py      ``ovs-l2pop demo``
    compare.py   ``ovs-l2pop compare``
"""
