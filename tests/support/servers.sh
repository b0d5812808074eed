# Private database servers for the tests: on loopback, in a temporary folder, stopped at the end.
# Sourced by tests/run and by the benches; sets TEST_POSTGRES_URL and TEST_MARIADB_URL.

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
  port=$(free_port)
  mkdir "$servers_folder/postgres"
  [ "$(id -u)" = 0 ] && chown postgres "$servers_folder/postgres"
  as_user postgres "$bin/initdb" -D "$servers_folder/postgres/data" -U postgres --auth=trust --no-sync >"$servers_folder/initdb.log" 2>&1 \
    || { cat "$servers_folder/initdb.log" >&2; return 1; }
  become postgres "$bin/postgres" -D "$servers_folder/postgres/data" -p "$port" \
    -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=300 -c shared_preload_libraries=pg_stat_statements ${POSTGRES_OPTIONS:--c fsync=off} \
    >"$servers_folder/postgres.log" 2>&1 &
  servers_pids="$servers_pids $!"
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

# Only what was started here, by its id. SIGINT is the fast stop of PostgreSQL; SIGTERM would wait for its clients.
stop_servers() {
  for pid in $servers_pids; do kill -INT "$pid" 2>/dev/null || true; done
  for pid in $servers_pids; do kill -TERM "$pid" 2>/dev/null || true; done
  for pid in $servers_pids; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$servers_folder"
}
