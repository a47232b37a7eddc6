# shellcheck shell=bash
# The network namespace lab: three nodes in two subnets, a pod behind each, a router between, and the
# daemons on the nodes. Sourced after lib.sh by `lab` and `demo`.
#
#    pod-a               pod-b                                     pod-c
#    10.244.1.2          10.244.2.2                                10.244.3.2
#      | eth0              | eth0                                    | eth0
#      |                   |                                         |
#      | pod0              | pod0                                    | pod0
#      | 10.244.1.1        | 10.244.2.1                              | 10.244.3.1
#    node-a              node-b              router                node-c
#      | eth0              | eth0              | eth0     eth1 |     | eth0
#      | 192.0.2.1         | 192.0.2.2         | 192.0.2.254   |     | 198.51.100.3
#      | port-a            | port-b            | port-r        |     |
#    =====================================================     +-----+
#                 bridge br0 in `switch`                 198.51.100.254
#                     192.0.2.0/24                       198.51.100.0/24
#
# Every name is a network namespace, called LAB_ID-NAME, and all links are veth pairs made inside them,
# so nothing of the lab shows in the host's own network and two labs do not meet. The nodes route only
# to each other: what reaches another pod went through a daemon.

NODES=(a b c)
declare -A NODE_ADDRESS=([a]=192.0.2.1 [b]=192.0.2.2 [c]=198.51.100.3)
declare -A NODE_NUMBER=([a]=1 [b]=2 [c]=3)
declare -A DAEMON_PID=()
LAB_ROOT=${XDG_RUNTIME_DIR:-/run}/underpass-lab

pod_address() { say "10.244.${NODE_NUMBER[$1]}.2"; }
pod_subnet() { say "10.244.${NODE_NUMBER[$1]}.0/24"; }

# --- namespaces -----------------------------------------------------------------------------------

# lab_use ID: the lab that all other functions mean.
lab_use() {
    [[ $1 =~ ^[A-Za-z0-9]{1,16}$ ]] || die "lab id '$1': 1 to 16 letters and digits are allowed"
    LAB_ID=$1
    LAB_DIR=$LAB_ROOT/$1
}

lab_ns() { say "$LAB_ID-$1"; }
lab_ip() { ip -n "$LAB_ID-$1" "${@:2}"; }
lab_exec() { ip netns exec "$LAB_ID-$1" "${@:2}"; }

# Making the directory is what claims the id.
lab_create() {
    mkdir -p "$LAB_ROOT"
    mkdir "$LAB_DIR" 2>/dev/null || die "lab $LAB_ID exists already ($LAB_DIR): take it down first"
    chmod 0750 "$LAB_DIR"
    local name
    for name in switch router node-{a,b,c} pod-{a,b,c}; do
        lab_add_namespace "$name"
    done
    lab_ip switch link add br0 type bridge mcast_snooping 0
    lab_ip switch link set br0 up
    lab_connect_router
    for name in "${NODES[@]}"; do
        lab_connect_node "$name"
        lab_connect_pod "$name"
    done
}

# The name is written down before the namespace exists, so that an interruption leaves nothing behind.
lab_add_namespace() {
    local ns
    ns=$(lab_ns "$1")
    [[ ! -e /run/netns/$ns ]] || die "a network namespace $ns exists already and is not ours"
    say "$ns" >>"$LAB_DIR/namespaces"
    ip netns add "$ns"
    lab_ip "$1" link set lo up
    # Before any interface exists: interfaces take their settings from `default` when they are made.
    # shellcheck disable=SC2016 # expanded by the inner shell
    lab_exec "$1" sh -c '
        cd /proc/sys/net
        for scope in all default; do
            echo 0 >ipv4/conf/$scope/rp_filter
            echo 0 >ipv4/conf/$scope/send_redirects
            echo 0 >ipv4/conf/$scope/accept_redirects
            [ ! -e ipv6/conf/$scope ] || echo 1 >ipv6/conf/$scope/disable_ipv6
        done
        [ ! -e bridge/bridge-nf-call-iptables ] || echo 0 >bridge/bridge-nf-call-iptables
        case $1 in node-*|router) echo 1 >ipv4/ip_forward ;; esac
    ' sh "$1"
}

# lab_link NAME INTERFACE NAME INTERFACE: a veth pair, both ends up.
lab_link() {
    ip link add name "$2" netns "$(lab_ns "$1")" type veth peer name "$4" netns "$(lab_ns "$3")"
    lab_ip "$1" link set "$2" up
    lab_ip "$3" link set "$4" up
}

# lab_plug NAME PORT: links NAME's eth0 to the bridge.
lab_plug() {
    lab_link "$1" eth0 switch "$2"
    lab_ip switch link set "$2" master br0
}

lab_connect_router() {
    lab_plug router port-r
    lab_ip router address add 192.0.2.254/24 dev eth0
}

lab_connect_node() {
    local node=node-$1
    if [[ $1 == c ]]; then
        lab_link "$node" eth0 router eth1
        lab_ip router address add 198.51.100.254/24 dev eth1
        lab_ip "$node" address add 198.51.100.3/24 dev eth0
        lab_ip "$node" route add 192.0.2.0/24 via 198.51.100.254
    else
        lab_plug "$node" "port-$1"
        lab_ip "$node" address add "${NODE_ADDRESS[$1]}/24" dev eth0
        lab_ip "$node" route add 198.51.100.0/24 via 192.0.2.254
    fi
}

lab_connect_pod() {
    local gateway=10.244.${NODE_NUMBER[$1]}.1
    lab_link "node-$1" pod0 "pod-$1" eth0
    lab_ip "node-$1" address add "$gateway/24" dev pod0
    lab_ip "pod-$1" address add "$(pod_address "$1")/24" dev eth0
    lab_ip "pod-$1" route add default via "$gateway"
}

# A host on the bridge that is no node: who attacks in the demo.
lab_add_stranger() {
    lab_add_namespace stranger
    lab_plug stranger port-x
    lab_ip stranger address add 192.0.2.66/24 dev eth0
}

# lab_offloads on|off: the offloads of the underlay links. Off, a capture shows frames of the size they
# have on a real wire; the links to the pods keep theirs.
lab_offloads() {
    local end
    for end in node-{a,b,c}:eth0 router:eth0 router:eth1 switch:port-{a,b,r}; do
        lab_exec "${end%:*}" ethtool -K "${end#*:}" \
            rx "$1" tx "$1" sg "$1" tso "$1" gso "$1" gro "$1" >/dev/null
    done
}

# lab_router_knows_pods add|del: the routes that a network without encapsulation needs.
lab_router_knows_pods() {
    local node
    for node in "${NODES[@]}"; do
        lab_ip router route "$1" "$(pod_subnet "$node")" via "${NODE_ADDRESS[$node]}"
    done
}

# Ends what runs in the lab's namespaces and removes them. Harmless on a lab that is half made or gone.
lab_destroy() {
    [[ -n ${LAB_DIR:-} && -d $LAB_DIR ]] || return 0
    local ns
    while read -r ns; do
        [[ -e /run/netns/$ns ]] || continue
        end_processes_in "$ns"
        ip netns delete "$ns"
    done < <(cat "$LAB_DIR/namespaces" 2>/dev/null)
    rm -rf "$LAB_DIR"
}

end_processes_in() {
    local pids
    mapfile -t pids < <(ip netns pids "$1")
    ((${#pids[@]})) || return 0
    kill -TERM "${pids[@]}" 2>/dev/null || true
    wait_for 2 namespace_empty "$1" && return 0
    mapfile -t pids < <(ip netns pids "$1")
    kill -KILL "${pids[@]}" 2>/dev/null || true
}

namespace_empty() { [[ -z $(ip netns pids "$1") ]]; }

# --- daemons --------------------------------------------------------------------------------------

# generate_config NODE IPIP_MODE VXLAN_MODE: writes the node's configuration file and prints its path.
generate_config() {
    local node=$1 ipip=$2 vxlan=$3 peer file=$LAB_DIR/node-$1.toml
    {
        cat <<TOML
[node]
name = "node-$node"
address = "${NODE_ADDRESS[$node]}/24"

[[pool]]
cidr = "10.244.0.0/16"
ipip_mode = "$ipip"
vxlan_mode = "$vxlan"

[local]
subnets = ["$(pod_subnet "$node")"]

[control]
socket = "$LAB_DIR/node-$node.sock"
TOML
        for peer in "${NODES[@]}"; do
            [[ $peer == "$node" ]] || cat <<TOML

[[peer]]
name = "node-$peer"
address = "${NODE_ADDRESS[$peer]}"
subnets = ["$(pod_subnet "$peer")"]
TOML
        done
    } >"$file"
    say "$file"
}

# underpass_on NODE COMMAND…: a client command to the daemon of the node.
underpass_on() {
    UNDERPASS_SOCKET=$LAB_DIR/node-$1.sock timeout 5 "$UNDERPASS_BIN" "${@:2}"
}

# start_daemon NODE CONFIG: returns when the daemon answers on its control socket. Not from a subshell:
# this shell has to be the daemon's parent to see its exit status later.
start_daemon() {
    local log=$LAB_DIR/node-$1.log
    ip netns exec "$(lab_ns "node-$1")" "$UNDERPASS_BIN" run --config "$2" >"$log" 2>&1 &
    DAEMON_PID[$1]=$!
    wait_for 10 daemon_answers_or_died "$1" && daemon_answers "$1" && return 0
    say "the daemon on node-$1 does not answer; it said:"
    cat "$log"
    return 1
}

daemon_answers() { underpass_on "$1" status >/dev/null 2>&1; }
daemon_answers_or_died() { process_ended "${DAEMON_PID[$1]}" || daemon_answers "$1"; }

# stop_daemon NODE: SIGTERM; the daemon has 2 s and must exit with 0.
stop_daemon() {
    local pid=${DAEMON_PID[$1]:-} status=0
    [[ -n $pid ]] || return 0
    unset "DAEMON_PID[$1]"
    end_process "$pid" 2 || {
        say "the daemon on node-$1 did not end within 2 s of SIGTERM"
        return 1
    }
    wait "$pid" || status=$?
    ((status == 0)) && return 0
    say "the daemon on node-$1 ended with status $status; it said:"
    cat "$LAB_DIR/node-$1.log"
    return 1
}

# --- captures -------------------------------------------------------------------------------------

declare -A CAPTURE_PID=()

# capture_begin LABEL NAME INTERFACE [FILTER]: captures headers until capture_end; ready on return. Each
# frame is in the file as soon as tcpdump has seen it.
capture_begin() {
    local file=$LAB_DIR/$1.pcap log=$LAB_DIR/$1.tcpdump
    rm -f "$log" # that of an earlier capture would say "listening" at once
    ip netns exec "$(lab_ns "$2")" tcpdump -Z root -n -p -U --immediate-mode -B 16384 -s 128 \
        -w "$file" -i "$3" "${4:-}" 2>"$log" &
    CAPTURE_PID[$1]=$!
    wait_for 5 grep -q 'listening on' "$log" && return 0
    cat "$log"
    return 1
}

# capture_end LABEL: ends the capture when all that passed is in it; fails when a frame was missed.
capture_end() {
    local pid=${CAPTURE_PID[$1]} complete=0
    wait_for 10 capture_complete "$1" || complete=1
    end_process "$pid" 5 || complete=1
    wait "$pid" || complete=1
    unset "CAPTURE_PID[$1]"
    ((complete == 0)) && return 0
    cat "$LAB_DIR/$1.tcpdump"
    return 1
}

# SIGUSR1 makes tcpdump say how many frames the kernel passed to it, and how many it wrote.
capture_complete() {
    local log=$LAB_DIR/$1.tcpdump lines
    lines=$(wc -l <"$log")
    kill -USR1 "${CAPTURE_PID[$1]}"
    wait_for 1 more_lines_than "$lines" "$log"
    [[ $(tail -n 1 "$log") =~ \ ([0-9]+)\ packets?\ captured,\ ([0-9]+)\ packets?\ received.*,\ 0\ packets\ dropped ]] &&
        [[ ${BASH_REMATCH[1]} == "${BASH_REMATCH[2]}" ]]
}

more_lines_than() { (($(wc -l <"$2") > $1)); }

# capture_count LABEL FILTER: how many frames of the capture match.
capture_count() {
    local output
    output=$(tcpdump -n -r "$LAB_DIR/$1.pcap" --count "$2" 2>"$LAB_DIR/count.log") || {
        cat "$LAB_DIR/count.log" >&2
        return 1
    }
    say "${output%% *}"
}
