"""What should be: pure, and the same for every dataplane.

::

    messages.py     what arrives, validated and turned into changes
    wire.py         messages, written
    declared.py     all that a table is to hold, as a document
    encapsulation.py  what a tunnel adds to a packet
    table.py        claims of who is where, conflicts resolved into facts
    revisions.py    which of two claims is newer
    flaps.py        who is claimed from two places again and again
    backend.py      what a dataplane is asked for, and what it answers
    orphans.py      what is installed and in no table, and how long it stays
    difference.py   wanted and installed rows compared
    reconciler.py   what differs, written by a backend; what was refused, tried again
    backoff.py      how long to wait until something is tried again
    errors.py       what can go wrong
"""
