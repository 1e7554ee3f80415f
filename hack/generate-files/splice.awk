# Replaces the lines between "# operations:" and "# end of operations" of a file by those of the file `new`.
/^ *# operations: / {
  print
  while ((getline line < new) > 0) print line
  skips = 1
}
/^ *# end of operations$/ { skips = 0; ended = 1 }
!skips
END { if (!ended) exit 1 }
