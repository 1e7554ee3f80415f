
# store and erase do nothing: the kubelet writes the file.
[ "${1-}" = get ] || exit 0
protocol='' host='' path='' username=''
while IFS= read -r line || [ -n "$line" ]; do
  case $line in
    '') break ;;
    protocol=*) protocol=${line#*=} ;;
    host=*) host=${line#*=} ;;
    path=*) path=${line#*=} ;;
    username=*) username=${line#*=} ;;
  esac
done
case $protocol,$username in
  https, | https,x-access-token) ;;
  *) exit 0 ;;
esac
# The LFS endpoint is below the repository.
path=${path%%/info/lfs*}
while :; do
  case $path in
    /*) path=${path#/} ;;
    */) path=${path%/} ;;
    *) break ;;
  esac
done
path=${path%.git}
is_ours "$host" "$path" || exit 0
have_token || exit 1
# echo is a builtin of every shell, so the token is never an argument of a process.
echo username=x-access-token
echo "password=$token"
