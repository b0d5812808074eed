# Private servers for the tests: on loopback, in a temporary folder, stopped at the end.
# Sourced by tests/run and by the benches; each sets TEST_…_URL.

servers_folder=$(mktemp -d "${TMPDIR:-/tmp}/studygovernor-test.XXXXXX")
chmod 755 "$servers_folder"
servers_pids=""

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Database servers refuse to run as root; their packages create accounts for them.
as_user() {
  if [ "$(id -u)" = 0 ]; then setpriv --reuid "$1" --regid "$1" --init-groups -- "${@:2}"; else "${@:2}"; fi
}

# The same, but replaces the shell that runs it in the background, so that its id is the server's.
become() {
  if [ "$(id -u)" = 0 ]; then exec setpriv --reuid "$1" --regid "$1" --init-groups -- "${@:2}"; else exec "${@:2}"; fi
}

start_postgres() {
  local bin port
  bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
  port=$(free_low_port)
  mkdir "$servers_folder/postgres"
  [ "$(id -u)" = 0 ] && chown postgres "$servers_folder/postgres"
  as_user postgres "$bin/initdb" -D "$servers_folder/postgres/data" -U postgres --auth=trust --no-sync >"$servers_folder/initdb.log" 2>&1 \
    || { cat "$servers_folder/initdb.log" >&2; return 1; }
  local account=""
  [ "$(id -u)" = 0 ] && account="setpriv --reuid postgres --regid postgres --init-groups --"
  # A launcher, so that a test can stop the server and start it again on the same port and data.
  cat >"$servers_folder/postgres/start" <<LAUNCHER
#!/bin/sh
exec >>'$servers_folder/postgres.log' 2>&1 </dev/null
exec $account $bin/postgres -D '$servers_folder/postgres/data' -p $port \\
  -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=300 -c shared_preload_libraries=pg_stat_statements ${POSTGRES_OPTIONS:--c fsync=off}
LAUNCHER
  chmod 755 "$servers_folder/postgres/start"
  "$servers_folder/postgres/start" &
  disown
  export TEST_POSTGRES_START="$servers_folder/postgres/start" TEST_POSTGRES_PID="$servers_folder/postgres/data/postmaster.pid"
  export TEST_POSTGRES_URL="postgres://postgres@127.0.0.1:$port/postgres"
  wait_for postgres "$bin/pg_isready" -q -h 127.0.0.1 -p "$port"
}

start_mariadb() {
  local port account
  port=$(free_port)
  account=$(id -un); [ "$(id -u)" = 0 ] && account=mysql
  mkdir "$servers_folder/mariadb"
  [ "$(id -u)" = 0 ] && chown mysql "$servers_folder/mariadb"
  mariadb-install-db --no-defaults --user="$account" --datadir="$servers_folder/mariadb/data" \
    --auth-root-authentication-method=normal --skip-test-db >"$servers_folder/mariadb-install.log" 2>&1 \
    || { cat "$servers_folder/mariadb-install.log" >&2; return 1; }
  become "$account" /usr/sbin/mariadbd --no-defaults --datadir="$servers_folder/mariadb/data" --port="$port" \
    --bind-address=127.0.0.1 --socket="$servers_folder/mariadb/socket" --pid-file="$servers_folder/mariadb/pid" \
    --innodb-flush-log-at-trx-commit=0 --max-connections=300 --skip-log-bin >"$servers_folder/mariadb.log" 2>&1 &
  servers_pids="$servers_pids $!"
  export TEST_MARIADB_URL="mysql://root@127.0.0.1:$port/mysql"
  wait_for mariadb mariadb-admin --no-defaults -u root -h 127.0.0.1 -P "$port" ping
}

# Below the ports that the system gives to clients: while the server is down, its port must not become the source port
# of a client that tries to connect (on loopback even to itself); otherwise the server could not listen again.
free_low_port() {
  python3 - <<'PY'
import random, socket
low = int(open("/proc/sys/net/ipv4/ip_local_port_range").read().split()[0])
while True:
    port = random.randrange(max(1024, low - 12000), low)
    try:
        socket.socket().bind(("127.0.0.1", port))
        print(port)
        break
    except OSError:
        pass
PY
}

# RabbitMQ, without its system service and without epmd. Running the launcher starts it again, with the same ports and
# data.
start_rabbitmq() {
  local folder=$servers_folder/rabbitmq port distribution
  port=$(free_low_port)
  distribution=$(free_low_port)
  mkdir -p "$folder/home"
  echo '[].' >"$folder/plugins"
  cat >"$folder/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:$port
log.console = true
log.console.level = ${RABBITMQ_LEVEL:-info}
disk_free_limit.absolute = 1MB
raft.wal_max_size_bytes = 16777216
${RABBITMQ_OPTIONS:-}
CONF
  # A dead letter that its queue did not accept, for example because the queue was declared a moment ago, is sent again
  # after this time; the default is three minutes.
  echo '[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 3000}]}].' >"$folder/advanced.config"
  # ERL_FLAGS also apply to the small Erlang that RabbitMQ runs every minute to start an epmd: it starts none, and
  # listens on loopback only.
  cat >"$folder/start" <<LAUNCHER
#!/bin/sh
exec >>'$servers_folder/rabbitmq.log' 2>&1 </dev/null
cd '$folder' && echo \$\$ >pid || exit
exec env -i PATH="\$PATH" HOME='$folder/home' LANG=C.UTF-8 ERL_CRASH_DUMP=/dev/null \\
  ERL_FLAGS='-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}' \\
  RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-sname rabbit@localhost -setcookie $distribution -erl_epmd_port $distribution +S 1:1 +Bi' \\
  RABBITMQ_NODENAME=rabbit@localhost RABBITMQ_CONF_ENV_FILE='$folder/none' \\
  RABBITMQ_CONFIG_FILE='$folder/rabbitmq.conf' RABBITMQ_ADVANCED_CONFIG_FILE='$folder/advanced.config' \\
  RABBITMQ_ENABLED_PLUGINS_FILE='$folder/plugins' RABBITMQ_PLUGINS_EXPAND_DIR='$folder/expanded' \\
  RABBITMQ_MNESIA_BASE='$folder' RABBITMQ_MNESIA_DIR='$folder/data' RABBITMQ_LOG_BASE='$folder' RABBITMQ_LOGS=- \\
  RABBITMQ_ALLOW_INPUT=1 /usr/lib/rabbitmq/bin/rabbitmq-server -noinput
LAUNCHER
  chmod 755 "$folder/start"
  "$folder/start" &
  disown # otherwise bash would report when a test kills it
  export TEST_RABBITMQ_URL="amqp://guest:guest@127.0.0.1:$port/%2f"
  export TEST_RABBITMQ_START="$folder/start" TEST_RABBITMQ_PID="$folder/pid"
  wait_for rabbitmq rabbitmq_answers "$port"
}

# Connects as a client of AMQP 0-9-1; the listener opens when the queues are recovered. The answer is a method frame,
# type 1.
rabbitmq_answers() {
  timeout 2 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$1"; printf "AMQP\0\0\11\1" >&3; read -rN 1 -u 3 byte; [ "$byte" = $'"'\\1'"' ]' - "$1"
}

wait_for() {
  local name=$1
  for _ in $(seq 300); do
    "${@:2}" >/dev/null 2>&1 && return 0
    sleep 0.2
  done
  echo "$name did not start:" >&2
  tail -n 20 "$servers_folder/$name.log" >&2
  return 1
}

# For stop_servers, before the folder is removed. Uses the id file of the launcher, since a test may have started the
# server again.
# It may be the child of another process, thus no `wait`; the folder in its command line proves that the id was not
# reused.
stop_rabbitmq() {
  local pid
  pid=$(cat "$servers_folder/rabbitmq/pid" 2>/dev/null) || return 0
  for _ in $(seq 100); do
    grep -qs "$servers_folder/rabbitmq" "/proc/$pid/cmdline" || break
    kill -KILL "$pid" 2>/dev/null || true
    sleep 0.05
  done
}

# Uses its own id file, for the same reason. SIGINT is the fast stop; SIGTERM would wait for its clients.
stop_postgres() {
  local pid
  pid=$(head -n 1 "$servers_folder/postgres/data/postmaster.pid" 2>/dev/null) || return 0
  [ -n "$pid" ] || return 0
  kill -INT "$pid" 2>/dev/null || true
  for _ in $(seq 100); do
    [ -e "$servers_folder/postgres/data/postmaster.pid" ] || break
    sleep 0.1
  done
}

# The real task-manager 6.6 on SQLite, on loopback. Sourced after tests/support/servers.sh, whose free_port, wait_for,
# servers_folder and servers_pids it uses. Needs TEST_TASKMANAGER_PYTHON: a Python with tests/requirements-taskmanager.txt.
# Sets TEST_TASKMANAGER_URL; login admin / secret, rater1 and rater2 / secret, group raters, template manual_qa.

start_taskmanager() {
  local port folder
  port=$(free_port)
  folder="$servers_folder/taskmanager"
  mkdir "$folder"
  cat >"$folder/manual_qa.yaml" <<'YAML'
template_name: manual_qa
qa_fields: {}
YAML
  cat >"$folder/config.yaml" <<'YAML'
users:
  - {username: rater1, name: Rater One, email: rater1@example.org, password: secret, active: true, roles: [user]}
  - {username: rater2, name: Rater Two, email: rater2@example.org, password: secret, active: true, roles: [user]}
groups:
  - {groupname: raters, name: Raters, members: [rater1, rater2]}
templates: [manual_qa.yaml]
YAML
  # Its own set-up commands and its own development server, in one process; in the folder, which has no .env.
  (
    cd "$folder"
    exec env -i PATH="$PATH" HOME="$folder" PYTHONUNBUFFERED=1 \
      SQLALCHEMY_DATABASE_URI="sqlite:///$folder/taskmanager.db" \
      SECRET_KEY=test SECURITY_PASSWORD_SALT=test SECURITY_PASSWORD_HASH=plaintext \
      TASKMAN_ADMIN_USERNAME=admin TASKMAN_ADMIN_EMAIL=admin@example.org TASKMAN_ADMIN_PASSWORD=secret \
      "$TEST_TASKMANAGER_PYTHON" -W ignore -c '
import sys
from taskmanager import create_app
from taskmanager.models import db
from taskmanager.util.import_config import load_config_file
from taskmanager.util.onboarding import ensure_admin_user, ensure_roles
app = create_app(use_sentry=False)
with app.app_context():
    db.create_all()
    ensure_roles()
    ensure_admin_user()
load_config_file(app, "config.yaml")
app.run(host="127.0.0.1", port=int(sys.argv[1]))
' "$port"
  ) >"$servers_folder/taskmanager.log" 2>&1 &
  servers_pids="$servers_pids $!"
  export TEST_TASKMANAGER_URL="http://127.0.0.1:$port"
  wait_for taskmanager python3 -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1] + "/-/ready")' "$TEST_TASKMANAGER_URL"
}

# A mail server that accepts every mail and stores each as a file of a maildir.
# In plain text, with STARTTLS, and with TLS; the certificate is signed by an authority of the tests.
start_smtp() {
  local plain starttls tls folder=$servers_folder/smtp
  plain=$(free_port) starttls=$(free_port) tls=$(free_port)
  mkdir "$folder"
  (
    cd "$folder"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=authority of the tests" \
      -keyout authority.key -out authority.pem
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=127.0.0.1" -keyout server.key -out server.csr
    printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' >server.ext
    openssl x509 -req -in server.csr -days 2 -CA authority.pem -CAkey authority.key -CAcreateserial -extfile server.ext -out server.pem
  ) >"$folder/openssl.log" 2>&1 || { cat "$folder/openssl.log" >&2; return 1; }
  export TEST_SMTP_FOLDER="$servers_folder/mails" TEST_SMTP_AUTHORITY="$folder/authority.pem"
  export TEST_SMTP_LOGIN=mailer TEST_SMTP_PASSWORD="a word of the tests"
  "$TEST_PYTHON" tests/support/mail_server.py "$TEST_SMTP_FOLDER" "$plain" "$starttls" "$tls" "$folder/server.pem" "$folder/server.key" \
    "$TEST_SMTP_LOGIN" "$TEST_SMTP_PASSWORD" >"$servers_folder/smtp.log" 2>&1 &
  servers_pids="$servers_pids $!"
  export TEST_SMTP_PORT="$plain" TEST_SMTP_STARTTLS_PORT="$starttls" TEST_SMTP_TLS_PORT="$tls"
  for port in "$plain" "$starttls" "$tls"; do
    wait_for smtp python3 -c 'import socket, sys; socket.create_connection(("127.0.0.1", int(sys.argv[1]))).close()' "$port"
  done
}

# A private Docker engine: own folder, own socket, no bridge, no iptables, no network. Needs root; without it (or if it
# cannot start) TEST_DOCKER_HOST is not set, and the test checks the error instead.
docker_pid=""

start_docker() {
  local folder=$servers_folder/docker socket
  socket=$folder/docker.sock                       # at most 107 bytes
  mkdir "$folder"; echo "{}" >"$folder/daemon.json"
  dockerd --config-file "$folder/daemon.json" \
    --host "unix://$socket" --group "$(id -gn)" \
    --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/pid" \
    --storage-driver "${DOCKER_STORAGE:-overlay2}" --exec-opt native.cgroupdriver=cgroupfs \
    --bridge=none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false \
    --cgroup-parent "/$(basename "$servers_folder")" --userland-proxy=false --live-restore=false --shutdown-timeout 2 --log-level warn \
    >"$servers_folder/docker.log" 2>&1 &
  docker_pid=$!
  export TEST_DOCKER_HOST="unix://$socket"
  for _ in $(seq 150); do
    docker --host "$TEST_DOCKER_HOST" version >/dev/null 2>&1 && { docker_image; return; }
    kill -0 "$docker_pid" 2>/dev/null || break
    sleep 0.2
  done
  echo "docker did not start:" >&2
  tail -n 20 "$servers_folder/docker.log" >&2
  return 1
}

# An image without a registry: one static program with its links.
docker_image() {
  local root=$servers_folder/docker/image
  mkdir -p "$root/bin" "$root/tmp" "$root/etc"
  cp /bin/busybox "$root/bin/busybox"
  for name in sh echo cat sleep env ls id true false printf; do ln "$root/bin/busybox" "$root/bin/$name"; done
  echo 'root:x:0:0::/:/bin/sh' >"$root/etc/passwd"
  tar -C "$root" -c . | docker --host "$TEST_DOCKER_HOST" import --change 'ENV PATH=/bin' - busybox:test >/dev/null
  rm -rf "$root"
}

# SIGTERM lets dockerd stop its containers and its containerd; the rest of a crash is found by its folder and removed.
stop_docker() {
  local folder=$servers_folder/docker pid
  [ -n "$docker_pid" ] || return 0
  # Running containers first; otherwise the stop waits for them.
  docker --host "$TEST_DOCKER_HOST" ps -q 2>/dev/null | xargs -r docker --host "$TEST_DOCKER_HOST" kill >/dev/null 2>&1
  kill -TERM "$docker_pid" 2>/dev/null
  for _ in $(seq 75); do kill -0 "$docker_pid" 2>/dev/null || break; sleep 0.2; done
  kill -KILL "$docker_pid" 2>/dev/null
  wait "$docker_pid" 2>/dev/null
  # After a crash: containerd and its shims, each with this folder in its command line, and the processes in the groups
  # of the containers.
  for pid in $(pgrep -f -- "$folder/exec") $(cat "/sys/fs/cgroup"{,/pids}"/$(basename "$servers_folder")"/*/cgroup.procs 2>/dev/null); do
    kill -KILL "$pid" 2>/dev/null
  done
  awk -v folder="$folder/" 'index($2, folder) == 1 { print $2 }' /proc/self/mounts | sort -r | while read -r mount; do
    umount -l "$mount"
  done
  for _ in $(seq 25); do pgrep -f -- "$folder/exec" >/dev/null || break; sleep 0.2; done
  # The empty groups of the containers, in each hierarchy, and the two folders with fixed paths.
  find /sys/fs/cgroup -maxdepth 3 -depth -type d -path "*/$(basename "$servers_folder")*" -exec rmdir {} + 2>/dev/null
  rmdir /run/docker/plugins /run/docker /run/containerd/s /run/containerd 2>/dev/null
  rm -rf "$folder"
  docker_pid=""
}

# Only processes that were started here, by their ids.
stop_servers() {
  stop_docker || true
  stop_rabbitmq
  stop_postgres
  for pid in $servers_pids; do kill -TERM "$pid" 2>/dev/null || true; done
  for pid in $servers_pids; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$servers_folder"
}
