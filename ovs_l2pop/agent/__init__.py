"""The daemon.

::

    worker.py    the worker: messages in, table, dataplane; one thread owns them all
    store.py     the table on disk
    control.py   the control socket
"""
