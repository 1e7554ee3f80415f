# What hack/demo, hack/test and hack/generate share; sourced by them with bash.
#
# Everything that is built lies in one target directory, built with the same features: a second set would compile every
# dependency again.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${LANDFALL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/landfall}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
built=$CARGO_TARGET_DIR/debug

# Checkouts share the target directory. Cargo tells their sources apart by time alone, so that one of them could be
# tested with what was built from another: the sources of the one that comes next are made new.
if [ "$(cat "$CARGO_TARGET_DIR/checkout" 2>/dev/null)" != "$root" ]; then
  mkdir -p "$CARGO_TARGET_DIR"
  git -C "$root" ls-files -z -- '*.rs' '*Cargo.toml' | (cd "$root" && xargs -0 touch -c --)
  printf '%s\n' "$root" >"$CARGO_TARGET_DIR/checkout"
fi

if [ -t 2 ]; then bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else bold='' dim='' red='' green='' plain=''; fi

die() { printf '%s\n' "${red}${0##*/}: $*$plain" >&2; exit 1; }

# need PROGRAM PACKAGE PURPOSE: the program is there, or is installed (on Debian, as root), or all that are missing are
# told at once by needed.
missing=() packages=()
need() {
  command -v "$1" >/dev/null && return
  missing+=("$1 is missing, which $3: install ${2:-it and put it on PATH}")
  [ -z "${2-}" ] || packages+=("$2")
}
needed() {
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ ${#packages[@]} -eq ${#missing[@]} ] && [ -e /etc/debian_version ] && [ "$(id -u)" = 0 ]; then
    printf 'installing %s with apt-get\n' "${packages[*]}" >&2
    export DEBIAN_FRONTEND=noninteractive
    if apt-get update -qq >&2 && apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2; then
      missing=() packages=()
      return
    fi
  fi
  printf '%s\n' "${missing[@]}" >&2
  exit 1
}

# What builds the programs, and what the scripts themselves call.
needs() {
  # Where installers put them and a login shell would find them.
  export PATH=$PATH:$HOME/.cargo/bin:/usr/local/go/bin
  need cargo '' 'builds Landfall (Rust 1.95 or newer, https://rustup.rs)'
  need go '' "builds the cluster's programs (1.26 or newer, https://go.dev/dl)"
  need cc gcc 'links what cargo builds'
  need git git 'is what the simulated GitHub serves'
  need curl curl 'asks the simulated GitHub'
  need jq jq 'reads its answers'
  needed
}

# seconds SINCE: how long ago that was, with a tenth; times are in milliseconds.
now() { local t=$EPOCHREALTIME; t=${t/[.,]/}; printf '%s' "${t:0:-3}"; }
seconds() { local ms=$(($(now) - $1)); printf '%d.%d' $((ms / 1000)) $((ms % 1000 / 100)); }

# logged LOG COMMAND…: runs it with its output in the log. Meanwhile a terminal shows its last line, anything else gets
# a line each minute; on failure the log's end is shown. Interrupting this ends it.
logged() {
  local log=$1 began beat=60 elapsed status=0 last
  shift
  mkdir -p "${log%/*}"
  "$@" >"$log" 2>&1 </dev/null &
  running=$! began=$SECONDS
  while kill -0 "$running" 2>/dev/null; do
    sleep 0.5
    elapsed=$((SECONDS - began))
    last=$(tail -c 400 "$log" | tr '\r' '\n' | sed '/^ *$/d' | tail -n 1 | cut -c1-90)
    if [ -t 2 ]; then
      printf '\r\e[K%s  %4d s  %s%s' "$dim" "$elapsed" "$last" "$plain" >&2
    elif [ "$elapsed" -ge "$beat" ]; then
      beat=$((beat + 60))
      printf '  %4d s  %s\n' "$elapsed" "$last" >&2
    fi
  done
  if [ -t 2 ]; then printf '\r\e[K' >&2; fi
  wait "$running" || status=$?
  running=''
  [ $status = 0 ] || { tail -n 60 "$log" | sed 's/^/  | /'; printf '  all of it: %s\n' "$log"; } >&2
  return $status
}
running=''

# The three programs. A test is named because only with one cargo builds the dependencies as the tests need them.
build_programs() {
  cargo build --locked --workspace --bins --test behaviour --manifest-path "$root/Cargo.toml"
}
