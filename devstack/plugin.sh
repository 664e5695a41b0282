#!/bin/bash
#
# DevStack plugin of ovs-l2pop: the mechanism driver where Neutron's server runs, the extension
# of neutron-openvswitch-agent where that one runs.
#
# DevStack sources this file in each phase: plugin.sh <mode> [phase]. The variables that are not
# assigned here are DevStack's own, or those of the settings beside this file.
# shellcheck disable=SC2034,SC2154

# Save trace setting
_XTRACE_OVS_L2POP=$(set +o | grep xtrace)
set +o xtrace


# Comma-separated lists
# ---------------------

# _ovs_l2pop_has list name
function _ovs_l2pop_has {
    [[ ",${1// /}," == *",$2,"* ]]
}

# Print the first list and what the second has beyond it, each name once.
# _ovs_l2pop_union list list
function _ovs_l2pop_union {
    local name union=""
    for name in ${1//,/ } ${2//,/ }; do
        if ! _ovs_l2pop_has "$union" "$name"; then
            union+=",$name"
        fi
    done
    echo "${union#,}"
}

# _ovs_l2pop_without list name
function _ovs_l2pop_without {
    local name rest=""
    for name in ${1//,/ }; do
        if [[ "$name" != "$2" ]]; then
            rest+=",$name"
        fi
    done
    echo "${rest#,}"
}

# Print a list of mechanism drivers with ours in it. Upstream's leaves: the two together would
# tell every host everything twice.
# _ovs_l2pop_mechanism_drivers list
function _ovs_l2pop_mechanism_drivers {
    _ovs_l2pop_union "$(_ovs_l2pop_without "$1" l2population)" openvswitch,ovs_l2pop
}


# What stack.sh does
# ------------------

function _ovs_l2pop_on_server {
    is_service_enabled q-svc neutron-api
}

function _ovs_l2pop_on_agent {
    is_service_enabled q-agt neutron-agent
}

# End with an explanation where this host's settings can't work.
function check_ovs_l2pop_settings {
    if [[ "${Q_AGENT:-openvswitch}" != "openvswitch" ]]; then
        die $LINENO "ovs-l2pop needs Q_AGENT=openvswitch, not $Q_AGENT;" \
            "see $OVS_L2POP_DIR/devstack/local.conf.sample"
    fi
    if _ovs_l2pop_on_agent && [[ "${OVS_ENABLE_TUNNELING:-True}" != "True" ]]; then
        die $LINENO "ovs-l2pop needs tunnels:" \
            "leave ENABLE_TENANT_TUNNELS and OVS_ENABLE_TUNNELING at True"
    fi
}

# The variables from which configure_neutron and other plugins write the files.
function set_ovs_l2pop_variables {
    Q_ML2_PLUGIN_MECHANISM_DRIVERS=$(
        _ovs_l2pop_mechanism_drivers "${Q_ML2_PLUGIN_MECHANISM_DRIVERS:-}")
    L2_AGENT_EXTENSIONS=$(_ovs_l2pop_union "${L2_AGENT_EXTENSIONS:-}" ovs_l2pop)
}

# The server's options. A plugin that came later may have set the variable once more, so the file
# decides.
function configure_ovs_l2pop_server {
    local conf=/$Q_PLUGIN_CONF_FILE
    local drivers

    drivers=$(iniget "$conf" ml2 mechanism_drivers)
    drivers=$(_ovs_l2pop_mechanism_drivers "${drivers:-$Q_ML2_PLUGIN_MECHANISM_DRIVERS}")
    iniset "$conf" ml2 mechanism_drivers "$drivers"
}

# The agent's options: in DevStack q-agt reads neutron.conf and the core plugin's file.
function configure_ovs_l2pop_agent {
    local conf=/$Q_PLUGIN_CONF_FILE
    local kind tunnel_types

    # Neutron's own plugin writes L2_AGENT_EXTENSIONS to the file, before us or after.
    L2_AGENT_EXTENSIONS=$(_ovs_l2pop_union "$(iniget "$conf" agent extensions)" \
        "$L2_AGENT_EXTENSIONS")
    iniset "$conf" agent extensions "$L2_AGENT_EXTENSIONS"
    iniset "$conf" agent l2_population True
    iniset "$conf" agent arp_responder True

    # DevStack wrote the type of the project networks if that is gre or vxlan, and gre for all else.
    tunnel_types=$(_ovs_l2pop_union "$(iniget "$conf" agent tunnel_types)" vxlan)
    for kind in gre geneve; do
        if [[ ",${Q_ML2_TENANT_NETWORK_TYPE:-}," == *",$kind,"* ]]; then
            tunnel_types=$(_ovs_l2pop_union "$tunnel_types" "$kind")
        fi
    done
    iniset "$conf" agent tunnel_types "$tunnel_types"

    iniset "$conf" ovs_l2pop state_path "$OVS_L2POP_STATE_PATH"
    if [[ -n "$OVS_L2POP_SYNC_INTERVAL" ]]; then
        iniset "$conf" ovs_l2pop sync_interval "$OVS_L2POP_SYNC_INTERVAL"
    fi
    if [[ -n "$OVS_L2POP_OPENVSWITCH_RUNDIR" ]]; then
        iniset "$conf" ovs_l2pop openvswitch_rundir "$OVS_L2POP_OPENVSWITCH_RUNDIR"
    fi
}

# Neutron's plugin gives the SR-IOV agent the same extensions, in a file of its own; ours would
# end that agent. It writes the file in post-config and starts the agent in extra.
function configure_ovs_l2pop_sriov_agent {
    local conf=/${SRIOV_AGENT_CONF:-}
    local extensions

    if is_service_enabled q-sriov-agt neutron-sriov-agent && [[ -f "$conf" ]]; then
        extensions=$(iniget "$conf" agent extensions)
        iniset "$conf" agent extensions "$(_ovs_l2pop_without "$extensions" ovs_l2pop)"
    fi
}

# The post-config sections of local.conf, and plugins after this one, have had the last word on
# the files: end with an explanation if that took out what we need.
function check_ovs_l2pop_files {
    local conf=/$Q_PLUGIN_CONF_FILE
    local drivers extensions

    if _ovs_l2pop_on_server; then
        drivers=$(iniget "$conf" ml2 mechanism_drivers)
        if ! _ovs_l2pop_has "$drivers" ovs_l2pop || _ovs_l2pop_has "$drivers" l2population; then
            die $LINENO "local.conf or another plugin set mechanism_drivers = $drivers in $conf;" \
                "ovs-l2pop needs $(_ovs_l2pop_mechanism_drivers "$drivers")"
        fi
    fi
    if _ovs_l2pop_on_agent; then
        extensions=$(iniget "$conf" agent extensions)
        if ! _ovs_l2pop_has "$extensions" ovs_l2pop; then
            die $LINENO "local.conf or another plugin set [agent] extensions = $extensions in" \
                "$conf; ovs-l2pop needs $(_ovs_l2pop_union "$extensions" ovs_l2pop)"
        fi
    fi
}


# What unstack.sh and clean.sh do
# -------------------------------

# Also at unstack: the next stack.sh makes the database anew, and a table of the old one is of
# no use.
function remove_ovs_l2pop_state {
    sudo rm -rf "$OVS_L2POP_STATE_PATH"
}


# Phases
# ------

if is_service_enabled q-svc neutron-api q-agt neutron-agent; then
    if [[ "$1" == "stack" ]]; then
        check_ovs_l2pop_settings
        case "$2" in
            install)
                # Neutron is installed; configure_neutron comes next.
                echo_summary "Installing ovs-l2pop"
                setup_develop "$OVS_L2POP_DIR"
                set_ovs_l2pop_variables
                ;;
            post-config)
                # The files are written; the server and the agents start next.
                echo_summary "Configuring ovs-l2pop"
                set_ovs_l2pop_variables
                if _ovs_l2pop_on_server; then
                    configure_ovs_l2pop_server
                fi
                if _ovs_l2pop_on_agent; then
                    configure_ovs_l2pop_agent
                fi
                configure_ovs_l2pop_sriov_agent
                ;;
            extra)
                configure_ovs_l2pop_sriov_agent
                check_ovs_l2pop_files
                ;;
        esac
    elif [[ "$1" == "unstack" ]]; then
        # The extension runs in q-agt; the bridges go with DevStack's own clean-up, later.
        stop_process q-agt
        remove_ovs_l2pop_state
    elif [[ "$1" == "clean" ]]; then
        # clean.sh itself removes Neutron's configuration, and leaves packages alone.
        remove_ovs_l2pop_state
    fi
fi

# Restore xtrace
$_XTRACE_OVS_L2POP
