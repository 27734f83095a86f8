#!/usr/bin/env bash
# Runs a command with the variables of the file .env. Variables that are set already win, as with Docker Compose.
#   deploy/with-env.sh COMMAND ARGUMENT...
set -eu
file=${CSTORE_ENV_FILE:-$(dirname "$0")/../.env}
if [ -r "$file" ]; then
  while IFS= read -r line || [ -n "$line" ]; do
    case $line in
      [A-Z]*=*)
        name=${line%%=*}
        [ -n "${!name+set}" ] || export "$name=${line#*=}"
        ;;
    esac
  done <"$file"
fi
exec "$@"
