#!/usr/bin/env bash
# Runs a command with the variables of the file .env. Variables that are set already win, as with Docker Compose.
#   deploy/with-env.sh COMMAND ARGUMENT...
set -eu
file=${CSTORE_ENV_FILE:-$(dirname "$0")/../.env}
if [ -r "$file" ]; then
  while IFS= read -r line || [ -n "$line" ]; do
    [[ $line =~ ^([A-Za-z_][A-Za-z0-9_]*)=(.*)$ ]] || continue
    name=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]}
    case $value in
      \"*\" | \'*\') value=${value:1:-1} ;;
      *) value=${value%%[[:space:]]#*} ;;
    esac
    [ -n "${!name+set}" ] || export "$name=$value"
  done <"$file"
fi
exec "$@"
