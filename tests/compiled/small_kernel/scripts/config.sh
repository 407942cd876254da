# Writes .config: of a fragment ($1) the last word on each option that is known ($2); the compiler's version is $3, and
# make's ARCH is $4.
known=" $2 "
{
	echo "# Automatically generated file; DO NOT EDIT."
	echo "CONFIG_CC_VERSION_TEXT=\"$3\""
	sed -n -e 's/^CONFIG_\([A-Z0-9_]*\)=\(.*\)$/\1 \2/p' -e 's/^# CONFIG_\([A-Z0-9_]*\) is not set$/\1 n/p' "$1" |
		awk '{ value[$1] = $2; if (!($1 in place)) { place[$1] = ++n; name[n] = $1 } }
		     END { for (i = 1; i <= n; i++) print name[i], value[name[i]] }' |
		while read -r name value; do
			case "$known" in *" $name "*) ;; *) continue ;; esac
			if [ "$value" = n ]; then echo "# CONFIG_$name is not set"; else echo "CONFIG_$name=$value"; fi
		done
	if [ "$4" = x86_64 ]; then echo "CONFIG_X86_64=y"; else echo "CONFIG_ARM64=y"; fi
	echo "CONFIG_PTDUMP=y"
	echo "CONFIG_GENERIC_BUG=y"
} > .config.new
if [ "$4" = x86_64 ]; then
	printf 'CONFIG_PHYSICAL_START=0x1000000\nCONFIG_PGTABLE_LEVELS=4\n' >> .config.new
	if cmp -s .config.new .config; then rm .config.new; else mv .config.new .config; fi
	exit
fi
bits=$(sed -n 's/^CONFIG_ARM64_VA_BITS_\([0-9]*\)=y$/\1/p' .config.new)
shift=12
grep -q '^CONFIG_ARM64_16K_PAGES=y' .config.new && shift=14
grep -q '^CONFIG_ARM64_64K_PAGES=y' .config.new && shift=16
levels=$(((bits - shift + shift - 4) / (shift - 3)))
echo "CONFIG_ARM64_VA_BITS=$bits" >> .config.new
echo "CONFIG_PGTABLE_LEVELS=$levels" >> .config.new
# an equal one keeps its time, and what was made with it stands
if cmp -s .config.new .config; then rm .config.new; else mv .config.new .config; fi
