#!/usr/bin/env bash
# Holds the deployment files and the operators' table against the binary's own arguments, and
# against each other: they name variables, ports, paths and times that are decided elsewhere, and
# nothing would tell when those change. Says what it could not check, and why.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

arguments=(host/cli/src/args.rs host/cli/src/args/*.rs)
yamls=(docker-compose.yml deploy/kubernetes/*.yaml deploy/kubernetes/keda/*.yaml)
units=(deploy/systemd/*.service)
table=docs/operations.md

faults=0
fault() {
    echo "deploy/check.sh: $*" >&2
    faults=$((faults + 1))
}
skipped() {
    echo "deploy/check.sh: not checked: $*"
}
has() {
    command -v "$1" >/dev/null 2>&1
}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# --- Variables ---

# One line for each argument that a variable can set: its name, and its default if it has one.
declared() {
    awk 'BEGIN { RS = "#\\[arg\\(" }
         NR > 1 {
             sub(/\)\][ \n].*/, "")
             if (!match($0, /env = "[A-Z_]+"/)) next
             name = substr($0, RSTART + 7, RLENGTH - 8)
             value = ""
             if (match($0, /default_value = "[^"]*"/)) value = substr($0, RSTART + 17, RLENGTH - 18)
             else if (match($0, /default_value_t = [0-9]+/)) value = substr($0, RSTART + 18, RLENGTH - 18)
             print name "\t" value
         }' "${arguments[@]}" | sort -u
}
declared >"$scratch/declared"
cut -f 1 "$scratch/declared" | sort -u >"$scratch/known"
[ "$(wc -l <"$scratch/known")" -ge 20 ] || fault "only $(wc -l <"$scratch/known") variables were found in host/cli/src/args: does this script still read them right?"

for file in docker-compose.yml .env.example Dockerfile "${units[@]}" "${yamls[@]}" "$table"; do
    { grep -oE '\bTASKFORGE_[A-Z_]*[A-Z]\b' "$file" || true; } | sort -u | comm -23 - "$scratch/known" |
        while read -r name; do echo "$file names $name, which no argument of the binary takes"; done
done >"$scratch/unknown"
while read -r line; do fault "$line"; done <"$scratch/unknown"

while IFS=$'\t' read -r name value; do
    grep -qE "^#?$name=" .env.example || fault ".env.example does not name $name"
    grep -qF "| \`$name\` |" "$table" || fault "the table in $table does not name $name"
    [ -n "$value" ] || continue
    grep -qxF -e "#$name=$value" -e "$name=$value" .env.example || fault ".env.example does not say that $name is $value by default"
    grep -F "| \`$name\` |" "$table" | grep -qF "\`$value\`" || fault "the table in $table does not say that $name is $value by default"
done <"$scratch/declared"

# What a person sets in .env must reach a container.
sed '/^# --- Set by/,$d' .env.example | sed -nE 's/^#?([A-Z_]+)=.*/\1/p' >"$scratch/settings"
while read -r name; do
    grep -qE "^ +$name:|\{${name}[:}]" docker-compose.yml || fault ".env.example offers $name, which docker-compose.yml does not pass on"
done <"$scratch/settings"

default() {
    awk -F '\t' -v name="$1" '$1 == name && $2 != "" { print $2; exit }' "$scratch/declared"
}

# --- Metrics ---

# A table of the database has such a name too.
grep -rhoE '"taskforge_[a-z_]+"' host/api/src host/broker/src host/registry/src host/store/src host/worker/src | tr -d '"' | grep -vxF taskforge_migrations | sort -u >"$scratch/metrics"
while read -r name; do
    grep -qF "| \`$name\` |" "$table" || fault "the table in $table does not name the metric $name"
done <"$scratch/metrics"

# --- Commands, paths and ports ---

is_command() {
    grep -qE "^    ${1^}\(" host/cli/src/args.rs
}
binary=/usr/local/bin/taskforge
plugins=/usr/share/taskforge/plugins
for unit in "${units[@]}"; do
    grep -qE "^ExecStart=$binary [a-z]+$" "$unit" || fault "$unit does not start $binary"
    command=$(sed -nE 's/^ExecStart=[^ ]+ ([a-z]+).*/\1/p' "$unit")
    is_command "$command" || fault "$unit starts '$command', which is no command"
done
# What must hold for every file that says it at all.
agrees() { # what, pattern, expected, files
    local what=$1 pattern=$2 expected=$3
    shift 3
    local found
    found=$(grep -ohE "$pattern" "$@" | sed -E 's/.*[=: ]//' | sort -u)
    [ "$found" = "$expected" ] || fault "$what is $(tr '\n' ' ' <<<"${found:-nowhere}") in $*; expected: $expected"
}
grep -qF "/image$binary" Dockerfile || fault "Dockerfile does not put the binary at $binary"
agrees 'the plugins folder' 'TASKFORGE_PLUGINS=[^ ]+' "$plugins" Dockerfile deploy/systemd/taskforge-api.service deploy/systemd/taskforge-worker@.service
for role in api worker; do
    grep -A 1 'TASKFORGE_PLUGINS' "deploy/kubernetes/$role.yaml" | grep -qF "value: $plugins" ||
        fault "deploy/kubernetes/$role.yaml does not look for plugins in $plugins"
done
sed -nE 's/^    command: \[([a-z]+)\]$/\1/p; s/^ +args: \[([a-z]+)\]$/\1/p' "${yamls[@]}" | sort -u >"$scratch/commands"
[ "$(wc -l <"$scratch/commands")" -eq 3 ] || fault "the containers' commands were not found: does this script still read them right?"
while read -r command; do
    is_command "$command" || fault "a container runs '$command', which is no command"
done <"$scratch/commands"

# The default ports, which are in no argument: where one is taken the next is tried.
port_of() {
    sed -nE "s/^pub\(crate\) const $1: SocketAddr = .*, ([0-9]+)\);\$/\1/p" host/cli/src/address.rs
}
port=$(port_of API)
admin=$(port_of ADMIN)
agrees 'the API port' 'TASKFORGE_LISTEN=0\.0\.0\.0:[0-9]+' "$port" Dockerfile
agrees 'the admin port' 'TASKFORGE_ADMIN_LISTEN=0\.0\.0\.0:[0-9]+' "$admin" Dockerfile
grep -qxF "EXPOSE $port $admin" Dockerfile || fault "Dockerfile does not expose $port and $admin"
grep -qE "^ +- .*:$port\$" docker-compose.yml || fault "docker-compose.yml does not publish port $port"
for role in api worker; do
    agrees 'a listener or port' '(value: 0\.0\.0\.0:|containerPort: )[0-9]+' \
        "$({ [ $role = worker ] || echo "$port"; echo "$admin"; } | sort)" "deploy/kubernetes/$role.yaml"
done
agrees 'a port that may be reached' 'port: [0-9]+' "$(printf '%s\n' 53 5432 6379 "$port" "$admin" | sort)" deploy/kubernetes/networkpolicy.yaml
agrees 'the admin port' 'TASKFORGE_ADMIN_LISTEN=127\.0\.0\.1:[0-9]+%i' "${admin%?}%i" deploy/systemd/taskforge-worker@.service
agrees 'the admin port' 'TASKFORGE_ADMIN_LISTEN=127\.0\.0\.1:[0-9]+' "${admin%?}0" deploy/systemd/taskforge-api.service

# --- Times: who stops a process must wait longer than the process takes ---

seconds() {
    [[ $1 =~ ^([0-9]+)s?$ ]] && echo "${BASH_REMATCH[1]}" || echo 0
}
outlasts() { # file, pattern of the time to wait, how much longer than which default
    local found grace
    found=$(sed -nE "s/.*$2.*/\1/p" "$1" | sort -n | head -n 1)
    grace=$(seconds "$(default "$4")")
    [ "$grace" -gt 0 ] && [ "$(seconds "${found:-0}")" -ge $((grace + $3)) ] ||
        fault "$1 waits ${found:-not at all} for a stop, which is less than $4 (${grace}s) and ${3}s"
}
outlasts deploy/systemd/taskforge-worker@.service 'TimeoutStopSec=([0-9]+)s' 10 TASKFORGE_DRAIN_GRACE
outlasts deploy/systemd/taskforge-api.service 'TimeoutStopSec=([0-9]+)s' 5 TASKFORGE_SHUTDOWN_GRACE
outlasts deploy/kubernetes/worker.yaml 'terminationGracePeriodSeconds: ([0-9]+)' 10 TASKFORGE_DRAIN_GRACE
outlasts deploy/kubernetes/api.yaml 'terminationGracePeriodSeconds: ([0-9]+)' 10 TASKFORGE_SHUTDOWN_GRACE
outlasts docker-compose.yml 'stop_grace_period: .*WORKER_STOP_GRACE:-([0-9]+)s' 10 TASKFORGE_DRAIN_GRACE
outlasts docker-compose.yml 'stop_grace_period: ([0-9]+)s' 5 TASKFORGE_SHUTDOWN_GRACE

# --- Secrets ---

grep -A 1 -h 'name: taskforge$' deploy/kubernetes/{api,worker,migrate}.yaml | sed -nE 's/^ +key: ([A-Z_]+)$/\1/p' | sort -u |
    while read -r key; do grep -qE "^  $key:" deploy/kubernetes/secret.example.yaml || echo "$key"; done >"$scratch/keys"
while read -r key; do fault "deploy/kubernetes/secret.example.yaml has no $key"; done <"$scratch/keys"
if has git && git rev-parse --git-dir >/dev/null 2>&1; then
    [ -z "$(git ls-files .env)" ] || fault '.env is under version control'
fi
for secret in TASKFORGE_API_KEY POSTGRES_PASSWORD; do
    grep -qx "$secret=" .env.example || fault ".env.example gives $secret a value"
done

# --- What needs a tool ---

if has python3 && python3 -c 'import yaml' 2>/dev/null; then
    python3 - "${yamls[@]}" <<'PYTHON' || fault 'a YAML file cannot be read'
import sys, yaml

for name in sys.argv[1:]:
    try:
        documents = [document for document in yaml.safe_load_all(open(name)) if document is not None]
        if not documents or not all(isinstance(document, dict) for document in documents):
            raise ValueError("not a mapping")
    except Exception as error:
        sys.exit(f"{name}: {error}")
PYTHON
else
    skipped 'the YAML files by themselves (python3 with yaml is missing)'
fi
if has docker && docker compose version >/dev/null 2>&1; then
    # Not --env-file .env.example: its secrets are empty, which must be an error.
    TASKFORGE_API_KEY=0123456789abcdef POSTGRES_PASSWORD=check docker compose --env-file /dev/null config --quiet ||
        fault 'docker-compose.yml is not valid'
    if docker compose --env-file .env.example config --quiet >/dev/null 2>&1; then
        fault 'docker-compose.yml starts without secrets'
    fi
else
    skipped 'docker-compose.yml as a whole (docker compose is missing)'
fi
if has kubectl && kubectl kustomize --help >/dev/null 2>&1; then
    cp -r deploy/kubernetes "$scratch/kubernetes"
    # As it is, and with the component that is off.
    kubectl kustomize "$scratch/kubernetes" >"$scratch/plain.yaml" || fault 'deploy/kubernetes cannot be built'
    sed -i.bak -E 's/^#(components:|  - keda)/\1/' "$scratch/kubernetes/kustomization.yaml"
    kubectl kustomize "$scratch/kubernetes" >"$scratch/keda.yaml" || fault 'deploy/kubernetes with keda cannot be built'
    grep -q '^kind: ScaledObject' "$scratch/keda.yaml" || fault 'the component keda is not in kustomization.yaml'
else
    skipped 'the Kubernetes manifests as a whole (kubectl is missing)'
fi
if has systemd-analyze; then
    mkdir "$scratch/units"
    for unit in "${units[@]}"; do
        name=${unit##*/}
        # An instance of the template, and a binary that is there.
        sed "s|$binary|/bin/true|" "$unit" >"$scratch/units/${name/@./@1.}"
    done
    said=$(systemd-analyze verify --man=no "$scratch"/units/*.service 2>&1) || fault "the units are not valid: $said"
    # What it only warns of, such as a setting that it does not know.
    ! grep -qF "$scratch" <<<"$said" || fault "the units: $said"
else
    skipped 'the units as a whole (systemd-analyze is missing)'
fi

if [ "$faults" -gt 0 ]; then
    echo "deploy/check.sh: faults: $faults" >&2
    exit 1
fi
echo 'deploy/check.sh: the deployment files agree with the binary and with each other'
