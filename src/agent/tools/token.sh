
# token: the one line in the token's file. It is read at this moment, for it is renewed while shells are open.
read_token() {
  token='' more=''
  [ -r "$token_file" ] || return 1
  { IFS=' 	' read -r token; IFS= read -r more; } 2>/dev/null <"$token_file"
  # What git or a shell could take for more than a password is none.
  case $more$token in
    '' | *[[:cntrl:]]* | *[[:space:]]* | *\\*) token='' ;;
  esac
  [ -z "$more" ] && [ -n "$token" ]
}
# A second time, for what a kubelet replaces may go between its name and its opening.
have_token() {
  read_token || read_token && return
  printf '%s\n' "landfall: there is no token in $token_file: the workspace's access was taken away, or is being renewed" >&2
  return 1
}
