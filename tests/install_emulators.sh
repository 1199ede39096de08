#!/usr/bin/env bash
# The programs that some tests run beside Python: emulators of other machines, Node, an ssh server, CMake and C compilers.
# Without one of them, its tests are skipped, and say so. On a machine of continuous integration (CI=true, root, Debian)
# the missing ones are installed; elsewhere this says what to install. It never fails.

programs=(qemu-aarch64 qemu-system-arm node sshd cmake gcc g++ llvm-mca-19)
declare -A package=(
    [qemu-aarch64]=qemu-user [qemu-system-arm]=qemu-system-arm [node]=nodejs [sshd]=openssh-server
    [cmake]=cmake [gcc]=gcc [g++]=g++ [llvm-mca-19]=llvm-19
)

PATH="$PATH:/usr/sbin"

missing() {
    for program in "${programs[@]}"; do
        command -v "$program" > /dev/null || echo "${package[$program]}"
    done
    # Headers of the C library, and ssh and make, which come with others only as recommendations.
    command -v ssh > /dev/null || echo openssh-client
    command -v make > /dev/null || echo make
    [ -e /usr/include/stdio.h ] || echo libc6-dev
}

wanted=$(missing)
if [ -n "$wanted" ] && [ "${CI:-}" = true ] && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    # One by one if they cannot be installed together: one may be unknown here.
    quick=(-o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 -o Acquire::Retries=1)
    timeout 300 apt-get "${quick[@]}" update > "$log" 2>&1
    # shellcheck disable=SC2086
    timeout 600 apt-get "${quick[@]}" install -y --no-install-recommends $wanted >> "$log" 2>&1 ||
        for each in $wanted; do
            timeout 600 apt-get "${quick[@]}" install -y --no-install-recommends "$each" >> "$log" 2>&1 || tail -n 1 "$log"
        done
    rm -f "$log"
    wanted=$(missing)
fi
if [ -n "$wanted" ]; then
    echo "Tests that need these Debian packages are skipped: $(echo $wanted)"
fi
exit 0
