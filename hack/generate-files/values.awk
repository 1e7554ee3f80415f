# The manual in the comments of charts/landfall/values.yaml, a line each: path, default, description, with tabs between. A value
# that has others below it has no default, and a line only if a comment stands above it.
#
# The file is written so that this can read it: two spaces a level, a value on one line, its comment directly above it.
BEGIN { FS = "\n" }
function fail(words) { printf "values.yaml:%d: %s\n", NR, words > "/dev/stderr"; failed = 1; exit 1 }
/^ *$/ { comment = ""; next }
/^ *# / { line = $0; sub(/^ *# /, "", line); comment = comment (comment == "" ? "" : " ") line; next }
match($0, /^ *[A-Za-z]+:/) {
  key = substr($0, 1, RLENGTH - 1)
  indent = match(key, /[^ ]/) - 1
  if (indent % 2) fail("an odd number of spaces")
  depth = indent / 2
  sub(/^ */, "", key)
  names[depth] = key
  path = names[0]
  for (i = 1; i <= depth; i++) path = path "." names[i]
  value = substr($0, length(key) + indent + 2)
  sub(/^ /, "", value)
  if (value != "" && comment == "") fail(path " has no comment directly above it")
  if (index(comment value, "\t")) fail(path " has a tab")
  if (comment != "") printf "%s\t%s\t%s\n", path, value, comment
  comment = ""
  next
}
{ fail("neither a comment nor a value on one line") }
END { exit failed }
