
# Whether the file is a copy of this script.
is_this() {
  second=''
  { IFS= read -r first; IFS= read -r second; } 2>/dev/null <"$1"
  [ "$second" = '# landfall: gh' ]
}

# The first other gh in PATH. A relative directory may be a repository's, so it does not count.
gh=''
set -f
IFS=:
for directory in $PATH; do
  case $directory in
    /*) ;;
    *) continue ;;
  esac
  if [ -f "$directory/gh" ] && [ -x "$directory/gh" ] && ! is_this "$directory/gh"; then
    gh=$directory/gh
    break
  fi
done
unset IFS
set +f
if [ -z "$gh" ]; then
  echo 'landfall: this image has no GitHub CLI (https://cli.github.com): install gh into a directory of PATH' >&2
  exit 127
fi

case $host in
  github.com | *.ghe.com) variable=GH_TOKEN theirs=${GH_TOKEN-}${GITHUB_TOKEN-} ;;
  *) variable=GH_ENTERPRISE_TOKEN theirs=${GH_ENTERPRISE_TOKEN-}${GITHUB_ENTERPRISE_TOKEN-} ;;
esac
# A person's own token, or another host, takes precedence over the workspace's token.
if [ -z "$theirs" ] && [ "${GH_HOST:-$host}" = "$host" ] && have_token; then
  export "$variable=$token"
  # Otherwise gh would use the host of a remote, and send the token there.
  export "GH_HOST=$host"
  if [ -n "$ca_file" ] && [ -z "${SSL_CERT_FILE-}" ]; then export "SSL_CERT_FILE=$ca_file"; fi
fi
# The environment may have exported a variable of this name.
unset token
exec "$gh" "$@"
