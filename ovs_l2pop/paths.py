"""Where things are by default."""

CONTROL_SOCKET = "/run/ovs-l2pop/agent.sock"
STATE_PATH = "/var/lib/ovs-l2pop"
