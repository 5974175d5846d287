#!/usr/bin/env bash
# ziglang 0.17.1: `zig cc` takes clang's flags, but not clang's names of CPUs, nor its default one.
#
# Behaviour, on x86-64 Linux with glibc: (1) without -march it compiles for the CPU it runs on: x * y + z becomes a fused
# multiply-add where there is one, which gcc and clang do only if told. (2) -march=x86-64-v3, which gcc and clang know, is
# refused as CPU 'x86'; it is x86_64_v3. (3) -dumpmachine names a triple with musl, while --version says, and the program
# is, for glibc.
# Why a good guess is wrong: it says it is clang, and takes clang's other flags, so that programs that find out which
# compiler they have give it what clang understands.
# Whom it hits: packages that are built with zig on one machine and end with an illegal instruction on another; build
# systems that choose by -dumpmachine; whoever passes an x86-64 level.
# Source: seen by running it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ziglang==0.17.1
export ZIG_GLOBAL_CACHE_DIR="$folder/cache" ZIG_LOCAL_CACHE_DIR="$folder/cache"
zig() { "$folder/venv/bin/python" -m ziglang cc "$@"; }
echo 'double f(double x, double y, double z) { return x * y + z; }' > "$folder/f.c"
fused() { zig -O2 -ffp-contract=fast "$@" -S "$folder/f.c" -o "$folder/f.s" 2> /dev/null && grep -c vfmadd "$folder/f.s" || true; }
changed() { echo "the behaviour has changed: $1"; exit 1; }

echo "fused multiply-adds: $(fused) without -march, $(fused -mcpu=baseline) with -mcpu=baseline"
[ "$(fused -mcpu=baseline)" = 0 ] || changed "baseline is fused"
if grep -q -w fma /proc/cpuinfo; then [ "$(fused)" -gt 0 ] || changed "it is not compiled for this CPU"; fi

if zig -O2 -march=x86-64-v3 -c "$folder/f.c" -o "$folder/f.o" 2> "$folder/words"; then changed "x86-64-v3 is known"; fi
tail -n 1 "$folder/words"
zig -O2 -march=x86_64_v3 -c "$folder/f.c" -o "$folder/f.o" || changed "x86_64_v3 is unknown"

machine=$(zig -dumpmachine | tail -n 1)
target=$(zig --version | grep '^Target:')
echo "-dumpmachine: $machine; --version: $target"
[[ "$machine" == *musl* && "$target" == *gnu* ]] || changed "both name one C library"
