# SPDX-License-Identifier: LGPL-2.1-or-later
# bash completion for kheadersctl(1)

_kheadersctl_releases() {
    local list
    list=$(
        ls /lib/modules 2>/dev/null
        kheadersctl list 2>/dev/null | cut -f 1
    )
    mapfile -t COMPREPLY < <(compgen -W "$list" -- "$1")
}

_kheadersctl_profiles() {
    local list file
    list=$(
        for file in /usr/lib/kheadersd/kheadersd/data/profiles/*.toml /etc/kheadersd/profiles/*.toml; do
            [[ ! -e $file ]] || basename "$file" .toml
        done
    )
    mapfile -t COMPREPLY < <(compgen -W "$list" -- "$1")
}

_kheadersctl() {
    local -A options=(
        [cc]='-o --release --profile --compiler -v --verbose'
        [env]='--source --refresh --shell --unless-dropped --json'
        [exec]='--release --source --refresh --precompiled'
        [export]='--source --refresh'
        [get]='--source --refresh --json'
        [list]='--json'
        [monitor]='--json'
        [pch]='--compiler --header --drop-headers --force --arguments --json'
        [prune]='--json'
        [remove]='--force --json'
        [status]='--json'
        [types]='--json'
        [unload]='--json'
        [verify]='--json'
    )
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command='' given=0 i
    COMPREPLY=()

    for ((i = 1; i < COMP_CWORD; i++)); do
        if [[ ${COMP_WORDS[i]} == -- && ($command == exec || $command == cc) ]]; then
            [[ $command != exec ]] || _command_offset "$((i + 1))" 2>/dev/null
            return
        fi
        case ${COMP_WORDS[i]} in
            -*) ;;
            *)
                case ${COMP_WORDS[i - 1]} in
                    -o | --release | --profile | --compiler | --header | --source | --shell) ;;
                    *) if [[ -z $command ]]; then command=${COMP_WORDS[i]}; else given=$((given + 1)); fi ;;
                esac
                ;;
        esac
    done

    case $previous in
        --source) mapfile -t COMPREPLY < <(compgen -W 'tree sysfs module-file module package' -- "$current") ;;
        --shell) mapfile -t COMPREPLY < <(compgen -W 'sh fish systemd' -- "$current") ;;
        --release) _kheadersctl_releases "$current" ;;
        --profile) _kheadersctl_profiles "$current" ;;
        --compiler) mapfile -t COMPREPLY < <(compgen -c -X '!clang*' -- "$current") ;;
        --header) ;;
        -o) mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
        *)
            if [[ $current == -* ]]; then
                mapfile -t COMPREPLY < <(
                    compgen -W "--session --help ${options[${command:-none}]---json --version}" -- "$current"
                )
            elif [[ -z $command ]]; then
                mapfile -t COMPREPLY < <(compgen -W "${!options[*]}" -- "$current")
            else
                case $command:$given in
                    pch:0) _kheadersctl_profiles "$current" ;;
                    cc:0) mapfile -t COMPREPLY < <(compgen -f -X '!*.c' -- "$current") ;;
                    pch:1 | env:0 | export:0 | get:0 | remove:0 | types:0 | verify:0) _kheadersctl_releases "$current" ;;
                esac
            fi
            ;;
    esac
}

complete -o filenames -F _kheadersctl kheadersctl
