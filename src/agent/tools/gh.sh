
# Whether it is this script, under whatever name.
is_this() {
  second=''
  { IFS= read -r first; IFS= read -r second; } 2>/dev/null <"$1"
  [ "$second" = '# landfall: gh' ]
}

# The first other one in PATH. Not in a relative directory, which may be a repository's.
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
  echo 'landfall: the GitHub CLI is not in this image (https://cli.github.com): install gh into a directory of PATH, and it works here' >&2
  exit 127
fi

case $host in
  github.com | *.ghe.com) variable=GH_TOKEN theirs=${GH_TOKEN-}${GITHUB_TOKEN-} ;;
  *) variable=GH_ENTERPRISE_TOKEN theirs=${GH_ENTERPRISE_TOKEN-}${GITHUB_ENTERPRISE_TOKEN-} ;;
esac
# Who has a token of their own, or works with another host, goes on without ours.
if [ -z "$theirs" ] && [ "${GH_HOST:-$host}" = "$host" ] && have_token; then
  export "$variable=$token"
  # Else gh would follow a remote to another host, and take the token along.
  export "GH_HOST=$host"
  if [ -n "$ca_file" ] && [ -z "${SSL_CERT_FILE-}" ]; then export "SSL_CERT_FILE=$ca_file"; fi
fi
# Which a variable of that name may have exported.
unset token
exec "$gh" "$@"
