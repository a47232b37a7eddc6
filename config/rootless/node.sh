#!/bin/sh
# One node of docs/rootless.md, for the inside of pasta's namespaces: a pod, then the daemon.
#
#     pasta … -- unshare --mount node.sh NUMBER run --config FILE
#
# UNDERPASS names the daemon if it is not in PATH.
set -eu
number=$1
shift

# A /run of our own, where `ip netns` keeps the pod.
mount -t tmpfs -o mode=0755 none /run
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward

ip netns add pod
ip link add pod0 type veth peer name eth0 netns pod
ip address add "10.244.$number.1/24" dev pod0
ip link set pod0 up
ip -n pod link set lo up
ip -n pod address add "10.244.$number.2/24" dev eth0
ip -n pod link set eth0 up
ip -n pod route add default via "10.244.$number.1"

exec "${UNDERPASS:-underpass}" "$@"
