# What `.ci/windows` does with a step that fails: sourced, with `limit` (seconds in all), `log` (a file)
# and `clear_up` (after a step that failed) set; `least` is the time that a step is still begun with.

skip() {
    echo "windows: skipped: $1"
    exit 0
}
# What Wine says when it fails; what is said where time has run out, or psutil asked what Wine cannot tell.
wines="wine: Unhandled|wine client error|wineserver crashed|could not load kernel32"
late="TimeoutExpired|Timeout|timed out|within [0-9]+ s|\(originated from "

# What in the log is Wine's; nothing if the product is at fault: a test that failed for neither reason.
blame() {
    local failed
    failed="$(sed -n '/^windows: once more/,$p' "$log" | grep -E '^(FAILED|ERROR) ' || true)"
    if [ -z "$failed" ]; then
        grep -Em1 "$wines" "$log" || grep -Em1 "$late" "$log" || true
    # A test whose process died has no message.
    elif [ -z "$(grep -E " - " <<< "$failed" | grep -Ev "$late")" ]; then
        head -n 1 <<< "$failed"
    fi
}

# attempt WHAT COMMAND...: run it; 75 is the status of a script that knows Wine to be at fault.
attempt() {
    local what="$1" status why left
    shift
    for _ in first second; do
        left=$((limit - SECONDS))
        [ "$left" -gt "${least:-10}" ] || skip "$what: ${why:-no time is left of $limit s}"
        status=0
        timeout -k 5 "$left" nice -n 5 "$@" > "$log" 2>&1 9>&- || status=$?
        # Of the tests only what did not pass, and those that were under way when time ran out.
        { grep -Ev "^WARNING: Location|PASSED|^tests/.* $" "$log" || true; } | tail -n 300
        [ "$status" != 124 ] || tail -n 4 "$log"
        # Nothing of a run that was cut off may meet the next one.
        [ "$status" = 0 ] || clear_up || true
        case "$status" in
            0) echo "windows: $what: passed, ${SECONDS} s after the start" && return ;;
            124 | 137) why="not done within the $limit s that .ci/windows may take" ;;
            75) why="Wine could not be set up" ;;
            *) why="$(blame)" ;;
        esac
        if [ -z "$why" ]; then
            echo "windows: $what: failed with status $status" >&2
            exit 1
        fi
        echo "windows: $what: status $status, for a reason that may be Wine's: $why"
    done
    skip "$what: $why, twice"
}
