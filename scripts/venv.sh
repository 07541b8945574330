# Sourced by the scripts beside it. Goes to the repository; `use_venv EXTRAS` puts its .venv first on PATH, made or completed
# if need be. PYTHON chooses the interpreter to make it with. A .venv that these scripts did not make is used as it is.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
stamp=.venv/sightline.stamp

say() { printf 'sightline: %s\n' "$*" >&2; }

find_python() {
    local candidate candidates=(python3 python3.14 python3.13 python3.12 python3.11 python)
    [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    say "needs Python 3.11 or newer${PYTHON:+, and PYTHON=$PYTHON is not}. Install it, or set PYTHON to its path."
    return 1
}

# A finished stamp holds the folder, for an environment cannot be moved, and what the environment was made from.
finished() { printf '%s\n%s\n' "$PWD" "$(cat pyproject.toml constraints.txt | cksum) $1"; }
made() { [[ $(cat $stamp 2>/dev/null) == "$(finished "$1")" ]]; }
foreign() { [[ -x .venv/bin/python && ! -e $stamp ]]; }
ready() { foreign || made "$1" || made dev; }

make_venv() {
    [[ $(head -n 1 $stamp 2>/dev/null) == "$PWD" ]] || rm -rf .venv/bin .venv
    mkdir -p .venv
    echo unfinished >$stamp
    [[ -x .venv/bin/python ]] || "$1" -m venv .venv
    # torch goes first: once a build is there, be it for CPU or CUDA, nothing that follows asks for another.
    .venv/bin/python -m pip install --constraint constraints.txt torch
    .venv/bin/python -m pip install --constraint constraints.txt --editable ".${2:+[$2]}"
    finished "$2" >$stamp
}

lock() { "$1" -c "import fcntl; fcntl.flock(9, fcntl.LOCK_EX $2)"; }

use_venv() {
    local python
    if ! ready "$1"; then
        python=$(find_python)
        # The lock belongs to the open file, hence to pip as well: it ends with the last process of this set-up, however it ends.
        exec 9>>.venv.lock
        lock "$python" "| fcntl.LOCK_NB" 2>/dev/null || { say "waiting for the set-up that is already running" && lock "$python" ""; }
        if ! ready "$1"; then
            say "setting up .venv, once; this takes a few minutes"
            make_venv "$python" "$1" >&2
            say "set up in $SECONDS s"
        fi
        exec 9>&-
    fi
    ! foreign || say "using the .venv you made, as it is"
    PATH="$PWD/.venv/bin:$PATH"
}
