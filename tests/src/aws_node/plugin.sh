#!/bin/sh
# What aws-node's plugin and daemon do for a pod, in one: the state on the node is theirs (recorded from v1.23.1), the
# code is not. Installed as `aws-cni` and as `egress-cni`, which passes the result on.
set -eu
state=/run/aws-node-stand-in
checkpoint=/var/run/aws-node/ipam.json

refuse() {
    printf '{"cniVersion":"0.4.0","code":%s,"msg":"%s"}\n' "$1" "$2"
    exit 1
}

argument() {
    printf '%s' "$CNI_ARGS" | tr ';' '\n' | sed -n "s/^$1=//p"
}

# allocations: container ifname address table namespace name time
write_checkpoint() {
    new=$(mktemp "$checkpoint.tmpXXXXXX")
    # In a shell of its own: the names are those of the pod that is wired.
    (
        printf '{"version":"vpc-cni-ipam/1","allocations":['
        comma=
        while read -r container ifname address table namespace name time; do
            printf '%s{"networkName":"aws-cni","containerID":"%s","ifName":"%s","ipv4":"%s",' \
                "$comma" "$container" "$ifname" "$address"
            printf '"allocationTimestamp":%s,"metadata":{"k8sPodNamespace":"%s","k8sPodName":"%s","interfacesCount":1}}' \
                "$time" "$namespace" "$name"
            comma=,
        done <"$state/allocations"
        printf ']}\n'
    ) >"$new"
    sync "$new"
    mv "$new" "$checkpoint"
}

add() {
    [ -e "$state/running" ] || refuse 999 'add cmd: failed to connect to backend server'
    namespace=$(argument K8S_POD_NAMESPACE) name=$(argument K8S_POD_NAME)
    hash=$(printf '%s' "$namespace.$name" | sha1sum | cut -c1-11)
    link=eni$hash
    found=
    while read -r address table device; do
        if ! grep -q " $address " "$state/allocations"; then
            found=yes
            break
        fi
    done <"$state/addresses"
    [ -n "$found" ] || refuse 999 'add cmd: failed to assign an IP address to container'
    printf '%s %s %s %s %s %s %s\n' "$CNI_CONTAINERID" "$CNI_IFNAME" "$address" "$table" "$namespace" "$name" \
        "$(date +%s%N)" >>"$state/allocations"
    write_checkpoint

    ip link del "$link" 2>/dev/null || true
    mac=02$(od -An -N5 -tx1 /dev/urandom | tr ' ' ':')
    ip link add "$link" address "$mac" mtu 9001 type veth peer name "$CNI_IFNAME" mtu 9001 netns "$CNI_NETNS"
    for setting in accept_ra=0 accept_redirects=1 forwarding=0; do
        echo "${setting#*=}" >"/proc/sys/net/ipv6/conf/$link/${setting%=*}"
    done
    ip link set "$link" up
    nsenter "--net=$CNI_NETNS" ip -batch - <<END
link set $CNI_IFNAME up
route replace 169.254.1.1 dev $CNI_IFNAME scope link
route add default via 169.254.1.1 dev $CNI_IFNAME
address add $address/32 dev $CNI_IFNAME
neighbour add 169.254.1.1 lladdr $mac dev $CNI_IFNAME nud permanent
END
    ip -batch - <<END
route replace $address dev $link scope link
rule add pref 512 to $address lookup main protocol 0
END
    if [ "$table" != 254 ]; then
        ip rule add pref 1536 from "$address" lookup "$table" protocol 0
    fi
    printf '{"cniVersion":"0.4.0","interfaces":[{"name":"%s"},{"name":"%s","mac":"%s","sandbox":"%s"},' \
        "$link" "$CNI_IFNAME" "$table" "$CNI_NETNS" >"$state/result"
    printf '{"name":"dummy%s","mac":"0","sandbox":"%s"}],"ips":[{"version":"4","interface":1,"address":"%s/32"}],"dns":{}}\n' \
        "$hash" "$device" "$address" >>"$state/result"
    mv "$state/result" "$state/result-$CNI_CONTAINERID"
    cat "$state/result-$CNI_CONTAINERID"
}

# Without the daemon the allocation stays in the checkpoint.
del() {
    line=$(grep "^$CNI_CONTAINERID $CNI_IFNAME " "$state/allocations") || exit 0
    address=$(printf '%s' "$line" | cut -d' ' -f3)
    ip rule del pref 512 to "$address" lookup main 2>/dev/null || true
    while ip rule del pref 1536 from "$address" 2>/dev/null; do :; done
    ip route del "$address" scope link 2>/dev/null || true
    rm -f "$state/result-$CNI_CONTAINERID"
    [ -e "$state/running" ] || exit 0
    grep -v "^$CNI_CONTAINERID $CNI_IFNAME " "$state/allocations" >"$state/allocations.new" || true
    mv "$state/allocations.new" "$state/allocations"
    write_checkpoint
}

cat >/dev/null
if [ "${0##*/}" = egress-cni ]; then
    [ "$CNI_COMMAND" != ADD ] || cat "$state/result-$CNI_CONTAINERID"
    exit 0
fi
if [ "$CNI_COMMAND" = VERSION ]; then
    printf '{"cniVersion":"1.0.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0"]}\n'
    exit 0
fi
exec 9>"$state/lock"
flock 9
case $CNI_COMMAND in
    ADD) add ;;
    DEL) del ;;
esac
