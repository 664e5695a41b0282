#!/bin/bash
#
# What stack.sh, unstack.sh and clean.sh do that a plugin of Neutron sees, in their order, with the
# functions below TOP_DIR: DevStack's own, or the stand-ins beside this file.
#
# run.sh stack|unstack|clean
#
# ROOT is a folder that everything is kept in. $ROOT/after/<phase> gets the core plugin's file as
# it is after that phase.

function keep {
    cp "/$Q_PLUGIN_CONF_FILE" "$ROOT/after/$1"
}

source "$TOP_DIR/functions"
extract_localrc_section "$TOP_DIR/local.conf" "$TOP_DIR/localrc" "$TOP_DIR/.localrc.auto"
source "$TOP_DIR/stackrc"
set -o errexit

if [[ "$1" != "clean" ]]; then
    run_phase override_defaults
fi
source "$TOP_DIR/lib/neutron"

# Neutron's files go to ROOT.
NEUTRON_CONF_DIR=$ROOT/etc/neutron
NEUTRON_CONF=$NEUTRON_CONF_DIR/neutron.conf
Q_L3_CONF_FILE=$NEUTRON_CONF_DIR/l3_agent.ini
eval "$(declare -f neutron_plugin_configure_common | sed "s:=etc/:=${ROOT#/}/etc/:")"

# What is not about this file, and would need the rest of a cloud.
for name in configure_keystone_authtoken_middleware configure_keystoneauth \
    database_connection_url enable_kernel_bridge_firewall iniset_rpc_backend setup_logging \
    write_uwsgi_config _configure_neutron_dhcp_agent _configure_neutron_l3_agent \
    _configure_neutron_metadata_agent; do
    eval "function $name { :; }"
done

case "$1" in
    stack)
        run_phase source
        run_phase stack pre-install
        run_phase stack install
        if is_service_enabled neutron; then
            configure_neutron
            keep configure_neutron
            run_phase stack post-config
            keep post-config
            merge_config_group "$TOP_DIR/local.conf" post-config
            run_phase stack extra
            run_phase stack test-config
            keep test-config
        else
            run_phase stack post-config
            run_phase stack extra
            run_phase stack test-config
        fi
        ;;
    unstack | clean)
        load_plugin_settings
        run_phase "$1"
        ;;
esac
echo "$ENABLED_SERVICES" >"$ROOT/after/services"
