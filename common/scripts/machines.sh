#!/bin/sh
# `make machines`: two machines out of this one, joined by a cable, and a ring of ranks over both, by MPI. For Linux.
# Usage: machines.sh RATE RANKS PROGRAM [OPTION]... RATE: of the cable, each way: 1gbit, 200mbit. RANKS: on each.
#
# To a program a machine is a name and a network. The kernel can keep several of both, in namespaces: mpirun starts half of the
# ranks here, under the name "one", and half in "two", with half of the cores each, and all that they send goes over the cable.
# Everything is gone with the last process in it. Root is not needed where users may make namespaces.
set -eu

fail() { # [-STATUS] words
    status=1
    case $1 in -*) status=${1#-} && shift ;; esac
    echo "make machines: $*" >&2
    exit $status
}

if [ "${IN_NAMESPACES:-}" != $$ ]; then # unshare keeps the process
    [ $# -ge 3 ] || { sed -n 's/^# Usage: /usage: /p' "$0" >&2; exit 2; }
    # By a slower cable mpirun, whose own messages it carries, too, would take minutes to end.
    echo "$1" | grep -Eiqx '[1-9][0-9]{1,3}mbit|[1-9][0-9]{0,2}gbit' || fail -2 "RATE=$1: 1gbit, 200mbit and the like are allowed"
    echo "$2" | grep -Eqx '[1-9][0-9]?|1[01][0-9]|12[0-8]' || fail -2 "RANKS=$2: a whole number from 1 to 128 is allowed"
    export PATH="$PATH:/usr/sbin:/sbin" # where Debian has tc, and users do not look
    for tool in mpirun unshare ip tc hostname; do
        command -v $tool >/dev/null || fail "$tool is not here; make setup MPI=1 installs mpirun, and ip and tc are in iproute2"
    done
    [ -x "$3" ] || fail "there is no program $3"
    case $(pwd -P)/ in /run/*) fail "no folder in /run will do, where the two machines have theirs" ;; esac
    as="--net --mount --uts"
    [ "$(id -u)" = 0 ] || as="--user --map-root-user $as"
    unshare $as true 2>/dev/null || fail "this machine lets nobody, or root alone, make namespaces"
    IN_NAMESPACES=$$ exec unshare $as "$0" "$@"
fi

rate=$1 ranks=$2
shift 2
limited() {
    tc "$@" dev cable root tbf rate "$rate" burst 128kb limit 16mb 2>/dev/null || fail "the kernel limits no cable to '$rate'"
}

hostname one
mount -t tmpfs none /run # where ip keeps the names of namespaces
ip netns add two
ip link add cable type veth peer name cable netns two
for machine in 1 2; do
    [ $machine = 1 ] && on= || on="-n two"
    ip $on addr add 10.77.0.$machine/24 dev cable
    ip $on link set lo up
    ip $on link set cable up
    limited $on qdisc add
done

# What mpirun asks for a machine with: MACHINE COMMAND.
cat >/run/start-on <<'END'
#!/bin/sh
name=$1
shift
exec ip netns exec "$name" unshare --uts sh -c "hostname $name; $*"
END
chmod +x /run/start-on

cores=$(nproc)
export OMP_NUM_THREADS=$((cores > 1 ? cores / 2 : 1)) OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
export TMPDIR=/run # in /tmp two users of mpirun, both root of a machine "one", would have one folder
export RESULTS="${RESULTS:-/dev/null}" # a row of the table says nothing of cables
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 # root of these namespaces
exec mpirun -q --mca plm_rsh_agent /run/start-on --host "one:$ranks,two:$ranks" --bind-to none "$@"
