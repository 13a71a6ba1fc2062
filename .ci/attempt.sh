# Runs the steps of `.ci/windows`, and decides whether a failed step is Wine's fault.  Before sourcing this,
# set `limit` (seconds for all steps together), `log` (a file) and `clear_up` (a command that is run after a
# failed step).  No step is started with less than `least` seconds left.

skip() {
    echo "windows: skipped: $1"
    exit 0
}
# Messages of Wine when it fails; messages of time-outs, and of psutil if Wine lacks what it asks for.
wines="wine: Unhandled|wine client error|wineserver crashed|could not load kernel32"
late="TimeoutExpired|Timeout|timed out|within [0-9]+ s|\(originated from "

# Print the line of the log that puts the blame on Wine; print nothing if the product is at fault, because a
# test failed for another reason.
blame() {
    local failed
    failed="$(sed -n '/^windows: once more/,$p' "$log" | grep -E '^(FAILED|ERROR) ' || true)"
    if [ -z "$failed" ]; then
        grep -Em1 "$wines" "$log" || grep -Em1 "$late" "$log" || true
    # The line of a test whose process died has no message.
    elif [ -z "$(grep -E " - " <<< "$failed" | grep -Ev "$late")" ]; then
        head -n 1 <<< "$failed"
    fi
}

# attempt WHAT COMMAND...: run a step, and run it again if its failure may be Wine's.  A command that knows
# Wine to be at fault ends with status 75.
attempt() {
    local what="$1" status why left
    shift
    for _ in first second; do
        left=$((limit - SECONDS))
        [ "$left" -gt "${least:-10}" ] || skip "$what: ${why:-no time is left of $limit s}"
        status=0
        timeout -k 5 "$left" nice -n 5 "$@" > "$log" 2>&1 9>&- || status=$?
        # Leave out tests that passed.  If time ran out, the last lines name the tests that were running.
        { grep -Ev "^WARNING: Location|PASSED|^tests/.* $" "$log" || true; } | tail -n 300
        [ "$status" != 124 ] || tail -n 4 "$log"
        # Processes of a failed run must not disturb the next one.
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
