"""What should be: pure, and the same for every dataplane.

::

    messages.py     what arrives, validated and turned into changes
    table.py        claims of who is where, conflicts resolved into facts
    revisions.py    which of two claims is newer
    flaps.py        who is claimed from two places again and again
    orphans.py      what is installed and in no table, and how long it stays
    difference.py   wanted and installed rows compared
    reconciler.py   what differs, written by a backend; what was refused, tried again
    errors.py       what can go wrong
"""
