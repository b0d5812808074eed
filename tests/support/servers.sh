# Private servers for the tests: on loopback, in a temporary folder, stopped at the end.
# Sourced by tests/run and by the benches; each sets TEST_…_URL.

servers_folder=$(mktemp -d "${TMPDIR:-/tmp}/studygovernor-test.XXXXXX")
chmod 755 "$servers_folder"
servers_pids=""

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Database servers refuse to run as root; their packages make accounts for them.
as_user() {
  if [ "$(id -u)" = 0 ]; then setpriv --reuid "$1" --regid "$1" --init-groups -- "${@:2}"; else "${@:2}"; fi
}

# The same in the place of the shell that runs it in the background, so that its id is the server's.
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

# Below the ports that the system gives to clients: while the server is down, its port must not become the source port of a
# client that tries to connect (on loopback even to itself), or the server could not listen again.
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

# RabbitMQ, without its system service, without epmd. It is started again by running the launcher: same ports, same data.
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
  # ERL_FLAGS are also of the small Erlang that RabbitMQ runs every minute to start an epmd: it starts none, listens on loopback only.
  cat >"$folder/start" <<LAUNCHER
#!/bin/sh
exec >>'$servers_folder/rabbitmq.log' 2>&1 </dev/null
cd '$folder' && echo \$\$ >pid || exit
exec env -i PATH="\$PATH" HOME='$folder/home' LANG=C.UTF-8 ERL_CRASH_DUMP=/dev/null \\
  ERL_FLAGS='-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}' \\
  RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-sname rabbit@localhost -setcookie $distribution -erl_epmd_port $distribution +S 1:1 +Bi' \\
  RABBITMQ_NODENAME=rabbit@localhost RABBITMQ_CONF_ENV_FILE='$folder/none' \\
  RABBITMQ_CONFIG_FILE='$folder/rabbitmq.conf' RABBITMQ_ADVANCED_CONFIG_FILE='$folder/none.config' \\
  RABBITMQ_ENABLED_PLUGINS_FILE='$folder/plugins' RABBITMQ_PLUGINS_EXPAND_DIR='$folder/expanded' \\
  RABBITMQ_MNESIA_BASE='$folder' RABBITMQ_MNESIA_DIR='$folder/data' RABBITMQ_LOG_BASE='$folder' RABBITMQ_LOGS=- \\
  RABBITMQ_ALLOW_INPUT=1 /usr/lib/rabbitmq/bin/rabbitmq-server -noinput
LAUNCHER
  chmod 755 "$folder/start"
  "$folder/start" &
  disown # or bash would tell of it when a test kills it
  export TEST_RABBITMQ_URL="amqp://guest:guest@127.0.0.1:$port/%2f"
  export TEST_RABBITMQ_START="$folder/start" TEST_RABBITMQ_PID="$folder/pid"
  wait_for rabbitmq rabbitmq_answers "$port"
}

# Greets as a client of AMQP 0-9-1; its listener opens when the queues are recovered. The answer is a method frame, type 1.
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

# For stop_servers, before the folder is removed: by the launcher's file, since a test may have started it again.
# It may be another process's child, thus no `wait`; the folder in its command line tells that the id was not given to another.
stop_rabbitmq() {
  local pid
  pid=$(cat "$servers_folder/rabbitmq/pid" 2>/dev/null) || return 0
  for _ in $(seq 100); do
    grep -qs "$servers_folder/rabbitmq" "/proc/$pid/cmdline" || break
    kill -KILL "$pid" 2>/dev/null || true
    sleep 0.05
  done
}

# By its own file of its id, for the same reason. SIGINT is the fast stop; SIGTERM would wait for its clients.
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

# Only what was started here, by its id.
stop_servers() {
  stop_rabbitmq
  stop_postgres
  for pid in $servers_pids; do kill -TERM "$pid" 2>/dev/null || true; done
  for pid in $servers_pids; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$servers_folder"
}
