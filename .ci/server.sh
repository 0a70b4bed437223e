# Sourced by scripts that need a server: starts a fresh `taskforge dev`, which ends with the script.
#   start_server BINARY PLUGINS CACHE     sets `work` (a folder, removed at the end), `server` (its
#                                         process), `url` and `key`; its log is $work/log
server=
work=$(mktemp -d)
finish() {
  if [ -n "$server" ]; then kill "$server" 2>/dev/null && wait "$server" || true; fi
  rm -rf "$work"
}
trap finish EXIT

start_server() {
  # None of the caller's settings.
  for name in $(compgen -e TASKFORGE_); do unset "$name"; done
  TASKFORGE_PLUGINS="$2" TASKFORGE_CACHE_DIR="$3" \
    "$1" dev --listen 127.0.0.1:0 --data-dir "$work/data" >"$work/out" 2>"$work/log" &
  server=$!
  local started=$SECONDS
  until grep -q '^A first task' "$work/out"; do
    kill -0 "$server" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
    [ $((SECONDS - started)) -lt 300 ] || { echo 'the server does not begin to serve' >&2; cat "$work/log" >&2; exit 1; }
    sleep 0.2
  done
  url=$(sed -n 's/^ *API *//p' "$work/out")
  key=$(cat "$work/data/key")
}
