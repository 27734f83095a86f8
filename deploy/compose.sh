#!/usr/bin/env bash
# Docker Compose with our file, settings and secrets; `make up`, `down`, `logs`, `ps` and `reset` are made of it.
# Usage: compose.sh up|up-obs|reset, or any command of Docker Compose with its arguments.
set -euo pipefail
cd "$(dirname "$0")"
docker compose version >/dev/null 2>&1 || { echo "compose: Docker with Compose v2 is needed" >&2; exit 69; }
project=${COMPOSE_PROJECT_NAME:-cstore}
secrets=${CSTORE_SECRETS_DIR:-$PWD/secrets}
group() {
  if [ -e "$secrets/cluster-secret" ]; then
    find "$secrets/cluster-secret" -prune -exec ls -ln {} + | awk '{print $4}'
  else
    id -g
  fi
}
CSTORE_SECRETS_GID=$(group)
export CSTORE_SECRETS_GID
progress=auto
[ -t 2 ] || progress=quiet
compose() { docker compose --progress "$progress" -f compose.yaml --env-file "${CSTORE_ENV_FILE:-../.env}" "$@"; }
# Everything, but for `up`.
profiles=${COMPOSE_PROFILES:-observability}
export COMPOSE_PROFILES=observability

# One secret for the cluster, made once. Its group reads it, nobody else: the containers get that group.
make_secret() {
  [ -s "$secrets/cluster-secret" ] && return
  (umask 027 && mkdir -p "$secrets" && head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n' >"$secrets/.draft")
  chmod 0640 "$secrets/.draft"
  mv "$secrets/.draft" "$secrets/cluster-secret"
  echo "compose: made $secrets/cluster-secret; keep it, nobody can call the inner services without it"
}

up() {
  # An image of another name is pulled, when it is not here.
  [ -n "${CSTORE_IMAGE:-}" ] || [ -n "$(docker image ls -q cstore:dev)" ] || ./image.sh
  make_secret
  CSTORE_SECRETS_GID=$(group)
  if ! compose up -d --wait --remove-orphans; then
    explain >&2
    exit 1
  fi
  echo "compose: ready at http://127.0.0.1:$(port gateway 8000); gRPC of the master at 127.0.0.1:$(port master 4100)"
  local token=
  case "$(compose exec -T gateway printenv CSTORE_ANONYMOUS 2>/dev/null || true)" in
    [Tt]* | 1) ;;
    *)
      echo "  requests need a token: export CSTORE_TOKEN=\$(deploy/compose.sh exec -T gateway cstore admin token create --tenant default)"
      token='-H "authorization: Bearer $CSTORE_TOKEN" '
      ;;
  esac
  echo "  curl ${token}-T README.md http://127.0.0.1:$(port gateway 8000)/api/files/README.md"
  for service in jaeger:16686 prometheus:9090 grafana:3000; do
    at=$(port "${service%:*}" "${service#*:}")
    [ -z "$at" ] || echo "  ${service%:*} http://127.0.0.1:$at"
  done
}

# What is not as it should be, and what it said last.
explain() {
  echo "compose: not everything became healthy. If a port is taken, choose others: GATEWAY_PORT, MASTER_PORT, JAEGER_PORT,"
  echo "PROMETHEUS_PORT and GRAFANA_PORT in .env"
  compose ps -a --format '{{.Service}} {{.State}} {{.Health}}' | while read -r service state health; do
    case "$state $health" in "running healthy" | "running ") continue ;; esac
    echo "-- $service is $state $health"
    compose logs --no-color --no-log-prefix --tail 5 "$service" </dev/null
  done
}

port() { compose port "$1" "$2" 2>/dev/null | sed 's/.*://' || true; }

reset() {
  local volumes
  volumes=$(docker volume ls -q --filter "label=com.docker.compose.project=$project")
  if [ -z "$volumes" ] && [ ! -e "$secrets/cluster-secret" ] && [ -z "$(compose ps -aq)" ]; then
    echo "compose: nothing to remove"
    return
  fi
  if [ "${FORCE:-}" != 1 ]; then
    echo "This removes every file that was stored: ${volumes//$'\n'/ } and the cluster's secret."
    printf 'Type y or yes to go on (FORCE=1 does not ask): '
    read -r answer || answer=
    case "$answer" in y | Y | yes) ;; *) echo "compose: nothing was removed"; exit 1 ;; esac
  fi
  compose down --volumes --remove-orphans >/dev/null 2>&1
  rm -f "$secrets/cluster-secret"
  rmdir "$secrets" 2>/dev/null || true
  echo "compose: removed the containers, the secret and the volumes ${volumes//$'\n'/ }"
}

case ${1:-} in
  up) COMPOSE_PROFILES=; up ;;
  up-obs) COMPOSE_PROFILES=$profiles; export OTEL_EXPORTER_OTLP_ENDPOINT="${OTEL_EXPORTER_OTLP_ENDPOINT:-http://jaeger:4317}"
    export CSTORE_JAEGER_UI_URL="${CSTORE_JAEGER_UI_URL:-http://127.0.0.1:${JAEGER_PORT:-16686}}"; up ;;
  reset) reset ;;
  "") sed -n 2,3p "$0" >&2; exit 64 ;;
  *) compose "$@" ;;
esac
