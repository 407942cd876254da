#!/bin/bash -eu
# Builds the fuzzers of harnesses/parsers into $OUT: for each fuzz_NAME.py the program fuzz_NAME, what it begins from
# (fuzz_NAME_seed_corpus.zip), the words of its format (fuzz_NAME.dict) and libFuzzer's options (fuzz_NAME.options).
# Runs in the image of the Dockerfile beside it, from the root of the repository, for ClusterFuzzLite and OSS-Fuzz alike.

parsers=$PWD/harnesses/parsers
python3 -m pip install .

# what else a fuzzer begins from: the files that fuzzvm ships
declare -A shipped=(
    [fuzz_corpus_file]="corpus/regressions corpus/seeds"
    [fuzz_litmus]="corpus/litmus"
)

# the fuzzers find frame.py as a module beside them
export PYTHONPATH=$parsers${PYTHONPATH:+:$PYTHONPATH}
for fuzzer in "$parsers"/fuzz_*.py; do
    name=$(basename -s .py "$fuzzer")
    # mitigations, architectures and the package's data are found by name when it runs
    compile_python_fuzzer "$fuzzer" --collect-all fuzzvm --collect-all lark --paths "$parsers"
    seeds=("$parsers/seeds/$name")
    for folder in ${shipped[$name]-}; do
        seeds+=("$PWD/$folder")
    done
    python3 - "$OUT/${name}_seed_corpus.zip" "${seeds[@]}" <<'EOF'
import sys, zipfile
from pathlib import Path

with zipfile.ZipFile(sys.argv[1], "w", zipfile.ZIP_DEFLATED) as archive:
    for folder in sys.argv[2:]:
        for path in sorted(Path(folder).iterdir()):
            if path.is_file():
                archive.write(path, f"{Path(folder).name}-{path.name}")
EOF
    cp "$parsers/$name.dict" "$OUT/"
    printf '[libfuzzer]\nmax_len = 65536\ntimeout = 10\nrss_limit_mb = 512\n' >"$OUT/$name.options"
done
