#!/bin/sh
# SPDX-License-Identifier: GPL-2.0 OR MIT
# Loads the module, reads page tables, and stops at a report of the kernel's: run.sh [SECONDS [PARAMETER=VALUE...]]
# Exit status: 1 a report, 0 none in that time, 2 it could not be run. As root. It ends nothing but what it has started.
set -u
here=$(dirname "$0")
seconds=${1:-600}
[ $# -gt 0 ] && shift

address() {
	awk -v name="$1" '$3 == name && !found { print "0x" $1; found = 1 }' /proc/kallsyms
}

given=
for name in vmap_page_range vunmap_range set_memory_ro set_memory_rox; do
	found=$(address $name)
	[ -n "$found" ] && given="$given ${name}_at=$found"
done
given="$given get_vm_area_at=$(address __get_vm_area_caller)"
# what the kernel has said since the module was loaded
said() {
	dmesg | awk '/fuzzvm_stress: .* instances of/ { n = 0; next } { line[n++] = $0 } END { for (i = 0; i < n; i++) print line[i] }'
}
insmod "$here/fuzzvm_stress.ko" $given "$@" || exit 2
setsid "$here/reader" &
readers=$!
# the readers are in a session of their own, whose group has its number
trap 'kill -- -$readers 2>/dev/null; rmmod fuzzvm_stress' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
while [ "$seconds" -gt 0 ]; do
	sleep 1
	seconds=$((seconds - 1))
	if ! kill -0 $readers 2>/dev/null; then
		echo "the reader has ended" >&2
		exit 2
	fi
	if said | grep -E 'BUG: |WARNING: |Oops|general protection fault|INFO: task .* blocked'; then
		exit 1
	fi
done
echo "no report"
