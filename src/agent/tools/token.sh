
# Sets token to the one line of the token's file, which the kubelet renews while shells are open.
read_token() {
  token='' more=''
  [ -r "$token_file" ] || return 1
  { IFS=' 	' read -r token; IFS= read -r more; } 2>/dev/null <"$token_file"
  # A token with such characters could set other keys of git's credential protocol.
  case $more$token in
    '' | *[[:cntrl:]]* | *[[:space:]]* | *\\*) token='' ;;
  esac
  [ -z "$more" ] && [ -n "$token" ]
}
# The second try is for a file that the kubelet replaced between the test and the read.
have_token() {
  read_token || read_token && return
  printf '%s\n' "landfall: there is no token in $token_file: the workspace's access was revoked, or is being renewed" >&2
  return 1
}
