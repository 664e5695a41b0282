"""``python -m ovs_l2pop`` is the ``ovs-l2pop`` command."""

import sys

from ovs_l2pop.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
