# The versions that the small kernel is known to be compiled by.
case "$1" in
gcc) echo 8.1.0 ;;
llvm) echo 13.0.1 ;;
esac
