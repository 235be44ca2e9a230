#!/usr/bin/env bash
# Several hosts on one machine, with links of a chosen rate between them: for trials without a cluster.
#   launch/simcluster.sh up --hosts 2 --rate 200mbit
#   launch/simcluster.sh run -np 4 --per-host 2 -- .venv/bin/gmeta-tf train --records R --run RUN
#   launch/simcluster.sh down
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/simcluster.sh up [--hosts N] [--rate RATE] [--name NAME]
       launch/simcluster.sh run -np RANKS --per-host RANKS [--name NAME] -- COMMAND...
       launch/simcluster.sh rate RATE [--name NAME]
       launch/simcluster.sh bytes [--name NAME]
       launch/simcluster.sh down [--packages] [--name NAME]

Makes N hosts of network namespaces: each has an address (10.9.0.1, 10.9.0.2, ...), an sshd and an
/etc/hosts of its own, and a link of RATE either way to a switch. They share this machine's cores,
memory and files. Needs root and Debian's iproute2 and openssh-server, which `up` installs where they
are missing (the service that comes with the latter is not started).

  up      makes the hosts; where NAME is there already, it is taken down first. What fails half-way
          is taken down again.
  run     starts COMMAND under horovodrun on the first RANKS / per-host hosts, from the first. It uses
          .venv/bin/horovodrun of this repository, or else the one on PATH.
  rate    sets the links' rate anew
  bytes   the bytes that each host has sent and received, one host a line: HOST SENT RECEIVED
  down    removes everything of NAME, also what was left half-made; ends what still runs in it.
          With --packages also the packages that an `up` installed.

  --hosts N      how many (2; at most 200)
  --rate RATE    as tc has it: 200mbit, 10gbit; none leaves the links as fast as they are (none)
  --name NAME    tells simulated clusters apart (gsim): letters and digits, at most 8
TEXT
}

die() { echo "simcluster: $*" >&2; exit 2; }

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
states=/run/gmeta-simcluster
[ $# -gt 0 ] || { usage >&2; exit 2; }
action=$1
shift
hosts=2 rate=none name=gsim ranks='' per_host='' packages='' command=()
case "$action" in
  -h | --help) usage; exit 0 ;;
  rate)
    [ $# -gt 0 ] || die "rate: expected a rate, such as 200mbit"
    rate=$1
    shift ;;
  up | run | bytes | down) ;;
  *) usage >&2; die "expected up, run, rate, bytes or down, got $action" ;;
esac
while [ $# -gt 0 ]; do
  case "$1" in
    --hosts | --rate | --name | -np | --per-host)
      [ $# -ge 2 ] || die "$1 needs a value"
      case "$1" in
        --hosts) hosts=$2 ;;
        --rate) rate=$2 ;;
        --name) name=$2 ;;
        -np) ranks=$2 ;;
        --per-host) per_host=$2 ;;
      esac
      shift 2 ;;
    --packages) packages=yes; shift ;;
    -h | --help) usage; exit 0 ;;
    --) shift; command=("$@"); break ;;
    *) die "unknown argument $1; see --help" ;;
  esac
done

number() { # number OPTION VALUE MOST
  case "$2" in '' | *[!0-9]* | 0* | ????*) die "expected $1 of 1 to $3, got '$2'" ;; esac
  [ "$2" -le "$3" ] || die "expected $1 of 1 to $3, got '$2'"
}
case "$name" in '' | *[!a-z0-9]* | ?????????*) die "expected --name of at most 8 small letters and digits, got '$name'" ;; esac
case "$rate" in
  none | [1-9]*bit) ;;
  *) die "expected a rate as tc has it, such as 200mbit, or none, got '$rate'" ;;
esac
number --hosts "$hosts" 200
[ "$(id -u)" = 0 ] || die "needs root, for network namespaces"
state=$states/$name
switch=$name-switch

in_host() { ip netns exec "$name-$1" "${@:2}"; }
up_hosts() { cat "$state/hosts" 2>/dev/null || die "$name is not up: launch/simcluster.sh up"; }

install_missing() {
  local missing=()
  command -v ip >/dev/null && command -v tc >/dev/null || missing+=(iproute2)
  [ -x /usr/sbin/sshd ] || missing+=(openssh-server)
  command -v ssh >/dev/null || missing+=(openssh-client)
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "needs ${missing[*]}, and there is no apt-get to install them with"
  local policy=/usr/sbin/policy-rc.d own=
  if [ ! -e "$policy" ]; then # no service starts because we installed it
    own=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
  fi
  local status=0
  { DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "${missing[@]}" >&2 ||
    { apt-get update -qq >&2 &&
      DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "${missing[@]}" >&2; }; } || status=$?
  if [ -n "$own" ]; then rm -f "$policy"; fi
  [ "$status" = 0 ] || die "could not install ${missing[*]}"
  case " ${missing[*]} " in
    *" openssh-server "*) systemctl disable ssh >/dev/null 2>&1 || true ;;
  esac
  mkdir -p "$states"
  printf '%s\n' "${missing[@]}" >>"$states/packages"
}

limit() { # limit NAMESPACE DEVICE
  if [ "$rate" = none ]; then
    ip netns exec "$1" tc qdisc del dev "$2" root 2>/dev/null || true
  else
    # What a link has saved up while it was idle passes at once; a step's messages are some 500 KB.
    ip netns exec "$1" tc qdisc replace dev "$2" root tbf rate "$rate" burst 64kb latency 100ms
  fi
}

limit_all() {
  local host
  for host in $(seq 1 "$1"); do
    limit "$name-$host" eth0
    limit "$switch" "port$host"
  done
}

namespaces() { ip netns list | cut -d' ' -f1 | grep -xE "$name-([0-9]+|switch)" || true; }

down() {
  local namespace pids
  if command -v ip >/dev/null; then
    for namespace in $(namespaces); do
      pids=$(ip netns pids "$namespace")
      # shellcheck disable=SC2086 # one argument a process
      if [ -n "$pids" ]; then kill $pids 2>/dev/null || true; fi
    done
    for _ in 1 2 3 4 5 6 7 8 9 10; do
      pids=$(for namespace in $(namespaces); do ip netns pids "$namespace"; done)
      [ -n "$pids" ] || break
      sleep 0.2
    done
    # shellcheck disable=SC2086
    if [ -n "$pids" ]; then kill -KILL $pids 2>/dev/null || true; fi
    for namespace in $(namespaces); do
      ip netns del "$namespace"
      rm -rf "/etc/netns/$namespace"
    done
  fi
  rm -rf "$state"
  rmdir /etc/netns "$states" 2>/dev/null || true
}

up() {
  install_missing
  down
  trap 'status=$?; if [ $status != 0 ]; then down; fi' EXIT
  trap 'exit 130' INT TERM
  mkdir -p "$state" /run/sshd
  chmod 700 "$state"
  ssh-keygen -q -t ed25519 -N '' -f "$state/key"
  local own host space
  own=$(hostname)
  ip netns add "$switch"
  ip netns exec "$switch" ip link add bridge0 type bridge
  ip netns exec "$switch" ip link set bridge0 up
  for host in $(seq 1 "$hosts"); do
    space=$name-$host
    # In place of /etc/hosts and /etc/ssh in that namespace. All hosts have this machine's own name;
    # Horovod's process sets listen on the address that it resolves to, and so must find the link's.
    mkdir -p "/etc/netns/$space/ssh"
    printf '127.0.0.1 localhost\n10.9.0.%s %s %s\n' "$host" "$own" "$space" >"/etc/netns/$space/hosts"
    printf 'UserKnownHostsFile %s/known\nStrictHostKeyChecking no\nLogLevel ERROR\n' "$state" \
      >"/etc/netns/$space/ssh/ssh_config"
    cat >"/etc/netns/$space/ssh/sshd_config" <<TEXT
ListenAddress 10.9.0.$host
HostKey $state/key
AuthorizedKeysFile $state/key.pub
PidFile $state/sshd-$host.pid
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
TEXT
    ip netns add "$space"
    ip netns exec "$switch" ip link add "port$host" type veth peer name eth0 netns "$space"
    ip netns exec "$switch" ip link set "port$host" master bridge0 up
    in_host "$host" ip link set lo up
    in_host "$host" ip address add "10.9.0.$host/24" dev eth0
    in_host "$host" ip link set eth0 up
    in_host "$host" /usr/sbin/sshd
  done
  limit_all "$hosts"
  echo "$hosts" >"$state/hosts"
  echo "$name: $hosts hosts, 10.9.0.1 to 10.9.0.$hosts, links of ${rate/none/any rate}"
}

run() {
  local there used list='' host horovodrun=$repository/.venv/bin/horovodrun
  there=$(up_hosts)
  number -np "$ranks" 999
  number --per-host "$per_host" 999
  [ $((ranks % per_host)) = 0 ] || die "expected -np to be a multiple of --per-host $per_host, got $ranks"
  used=$((ranks / per_host))
  [ "$used" -le "$there" ] || die "$ranks ranks, $per_host a host, need $used hosts, and $name has $there"
  [ ${#command[@]} -gt 0 ] || die "expected a command after --"
  [ -x "$horovodrun" ] || horovodrun=$(command -v horovodrun) || die "there is no horovodrun: bash launch/setup.sh"
  for host in $(seq 1 "$used"); do list=$list${list:+,}10.9.0.$host:$per_host; done
  exec ip netns exec "$name-1" "$horovodrun" -np "$ranks" -H "$list" --network-interfaces eth0 \
    --ssh-identity-file "$state/key" "${command[@]}"
}

bytes() {
  local there host folder=/sys/class/net/eth0/statistics
  there=$(up_hosts)
  for host in $(seq 1 "$there"); do
    echo "$host $(in_host "$host" cat "$folder/tx_bytes") $(in_host "$host" cat "$folder/rx_bytes")"
  done
}

case "$action" in
  up) up ;;
  run) run ;;
  rate)
    hosts=$(up_hosts)
    limit_all "$hosts" ;;
  bytes) bytes ;;
  down)
    down
    if [ -n "$packages" ] && [ -s "$states/packages" ]; then
      # shellcheck disable=SC2046 # one argument a package
      DEBIAN_FRONTEND=noninteractive apt-get purge -qq $(sort -u "$states/packages") >&2
      rm -rf "$states/packages"
      rmdir "$states" 2>/dev/null || true
    fi ;;
esac
