#!/usr/bin/env bash
# Stores the same bytes under two names and shows what that cost, and where the trace of it is.
# CSTORE_URL: the gateway (http://127.0.0.1:8000), CSTORE_TOKEN: a token, where one is wanted, JAEGER_URL.
set -euo pipefail
url=${CSTORE_URL:-http://127.0.0.1:${GATEWAY_PORT:-8000}}
jaeger=${JAEGER_URL:-http://127.0.0.1:${JAEGER_PORT:-16686}}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
ask() { curl -fsS ${CSTORE_TOKEN:+-H "authorization: Bearer $CSTORE_TOKEN"} "$@"; }
field() { sed -n "s/.*\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/p" "$2"; }

head -c 16777216 /dev/urandom >"$dir/bytes"
prefix=demo-$(od -An -N6 -tx1 /dev/urandom | tr -d ' \n')
for name in "$prefix/first" "$prefix/second"; do
  ask -T "$dir/bytes" -o "$dir/answer" -D "$dir/head" "$url/api/files/$name"
  echo "$name: $(field size "$dir/answer") bytes, new blocks $(field new_blocks "$dir/answer") of $(field blocks "$dir/answer")"
done
trace=$(tr -d '\r' <"$dir/head" | sed -n 's/^x-cstore-trace-id: //Ip')
ask "$url/api/files/$prefix/second" | cmp - "$dir/bytes" && echo "$prefix/second comes back equal"
# Storage nodes tell their numbers once a second.
sleep 2
ask "$url/api/stats" >"$dir/stats"
echo "stored now: $(field logical_bytes "$dir/stats") bytes of files in $(field unique_bytes "$dir/stats") bytes of distinct blocks"
if curl -fsS -o /dev/null "$jaeger/api/services" 2>/dev/null; then
  echo "the trace of the second upload: $jaeger/trace/$trace"
else
  echo "the trace of the second upload is $trace (no Jaeger at $jaeger; \`make up-obs\` has one)"
fi
ask -X DELETE "$url/api/files/$prefix/first" -o /dev/null
ask -X DELETE "$url/api/files/$prefix/second" -o /dev/null
