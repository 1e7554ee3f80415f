# Sourced by the stand-ins.
# shellcheck shell=bash

# known TEXT ARGUMENT…: each flag among the arguments, up to --, is in the text in which the program tells its flags.
known() {
  local text=$1 argument
  shift
  for argument in "$@"; do
    case $argument in
      --) return 0 ;;
      --*) argument=${argument%%=*} ;;
      -[a-zA-Z]*) argument=${argument:0:2} ;;
      *) continue ;;
    esac
    grep -qE -- "(^|[^a-zA-Z0-9-])$argument([^a-zA-Z0-9-]|\$)" <<<"$text" ||
      { echo "${0##*/} has no $argument here" >&2; exit 1; }
  done
}

# commands ARGUMENT…: the words before the first flag.
commands() {
  words=()
  while [ $# -gt 0 ] && [[ $1 != -* ]]; do words+=("$1"); shift; done
}
