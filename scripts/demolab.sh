# shellcheck shell=bash
# What the demo does in its lab: daemons, captures, a stranger. Sourced after lib.sh by `demo`, inside the lab
# of config/lab/three-nodes.toml (drawn by `scripts/lab graph --topology three-nodes`), where `ip netns` knows
# node-a, pod-a, router, switch-left and the others. LAB_DIR is the directory of the lab.
#
# The nodes route only to each other: what reaches another pod went through a daemon.

NODES=(a b c)
declare -A NODE_ADDRESS=([a]=192.0.2.1 [b]=192.0.2.2 [c]=198.51.100.3)
declare -A NODE_NUMBER=([a]=1 [b]=2 [c]=3)
declare -A DAEMON_PID=()

pod_address() { say "10.244.${NODE_NUMBER[$1]}.2"; }
pod_subnet() { say "10.244.${NODE_NUMBER[$1]}.0/24"; }

# --- namespaces -----------------------------------------------------------------------------------

# Not in the background: `$!` would be a shell's.
lab_exec() { ip netns exec "$@"; }

# A host in the subnet of node-a and node-b that is no node: who attacks in the demo. It says nothing by
# itself, so it has no IPv6.
lab_add_stranger() {
    ip netns add stranger
    # shellcheck disable=SC2016 # expanded by the inner shell
    lab_exec stranger sh -c '
        cd /proc/sys/net/ipv6/conf 2>/dev/null || exit 0
        for scope in all default; do echo 1 >$scope/disable_ipv6; done
    '
    ip link add name eth0 netns stranger type veth peer name stranger netns switch-left
    ip -n stranger link set eth0 up
    ip -n stranger address add 192.0.2.66/24 dev eth0
    ip -n switch-left link set stranger master br0 up
}

# lab_router_knows_pods add|del: the routes that a network without encapsulation needs.
lab_router_knows_pods() {
    local node
    for node in "${NODES[@]}"; do
        ip -n router route "$1" "$(pod_subnet "$node")" via "${NODE_ADDRESS[$node]}"
    done
}

# --- daemons --------------------------------------------------------------------------------------

# underpass_on NODE COMMAND…: a client command to the daemon of the node.
underpass_on() {
    UNDERPASS_SOCKET=$LAB_DIR/node-$1.sock timeout 5 "$UNDERPASS_BIN" "${@:2}"
}

# start_daemon NODE CONFIG: returns when the daemon answers on its control socket. Not from a subshell:
# this shell has to be the daemon's parent to see its exit status later.
start_daemon() {
    local log=$LAB_DIR/node-$1.log
    ip netns exec "node-$1" "$UNDERPASS_BIN" run --config "$2" >"$log" 2>&1 &
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

# Of each frame as much as the checks look at.
SNAP_BYTES=128
declare -A CAPTURE_PID=()

# capture_begin LABEL NAME INTERFACE: captures headers until capture_end; ready on return. Frames are in the
# file a few milliseconds after they passed.
capture_begin() {
    local log=$LAB_DIR/$1.log
    rm -f "$log" # that of an earlier capture would say "listening" at once
    PYTHONPATH=$REPO/tools ip netns exec "$2" "$PYTHON" -P -m underpass_lab.lab.ring "$3" 0 $SNAP_BYTES >"$LAB_DIR/$1.pcap" 2>"$log" &
    CAPTURE_PID[$1]=$!
    wait_for 5 grep -q 'listening on' "$log" && return 0
    cat "$log"
    return 1
}

# capture_end LABEL: ends the capture when all that passed is in it; fails when a frame was missed.
capture_end() {
    local pid=${CAPTURE_PID[$1]} complete=0
    end_process "$pid" 10 || complete=1
    wait "$pid" || complete=1
    unset "CAPTURE_PID[$1]"
    ((complete == 0)) && return 0
    cat "$LAB_DIR/$1.log"
    return 1
}

# read_capture LABEL ARGUMENT…: tcpdump. As root it wants to become another user, which it cannot where there
# is no other; one level further in it is nobody, and may still read the file.
read_capture() {
    local as=()
    [[ $(wc -l </proc/self/uid_map) -eq 1 && $(awk '{print $3}' /proc/self/uid_map) -eq 1 ]] && as=(unshare --user)
    "${as[@]}" tcpdump -n -r "$LAB_DIR/$1.pcap" "${@:2}"
}

# capture_count LABEL FILTER: how many frames of the capture match.
capture_count() {
    local output
    output=$(read_capture "$1" --count "$2" 2>"$LAB_DIR/count.log") || {
        cat "$LAB_DIR/count.log" >&2
        return 1
    }
    say "${output%% *}"
}
