# Writes what arch/arm64/tools/gen-cpucaps.awk does.
number=0
for name in ALWAYS_BOOT ALWAYS_SYSTEM HAS_LSE_ATOMICS HAS_OTHER HAS_WRITTEN; do
	echo "#define ARM64_$name $number"
	number=$((number + 1))
done
