# SPDX-License-Identifier: LGPL-2.1-or-later
# fish completion for kheadersctl(1)

set -l commands cc env exec export get list monitor pch prune remove status types unload verify

function __kheadersctl_releases
    path basename /lib/modules/* 2>/dev/null
    command -q kheadersctl; and kheadersctl list 2>/dev/null | cut -f 1
end

function __kheadersctl_profiles
    path basename -E /usr/lib/kheadersd/kheadersd/data/profiles/*.toml /etc/kheadersd/profiles/*.toml 2>/dev/null |
        string replace -r '\.toml$' ''
end

function __kheadersctl_uses
    __fish_seen_subcommand_from $argv
end

complete -c kheadersctl -f
complete -c kheadersctl -l session -d 'Use the session bus'
complete -c kheadersctl -l help -s h -d 'Show help'
complete -c kheadersctl -l version -n "not __fish_seen_subcommand_from $commands" -d 'Print the version'
complete -c kheadersctl -l json -n "not __kheadersctl_uses cc exec export" -d 'Print JSON'

complete -c kheadersctl -n "not __fish_seen_subcommand_from $commands" -a cc -d 'Compile a program for BPF'
complete -c kheadersctl -n "not __fish_seen_subcommand_from $commands" -a env -d 'Print the environment for bcc and bpftrace'
complete -c kheadersctl -n "not __fish_seen_subcommand_from $commands" -a exec -d 'Run a command with headers'
complete -c kheadersctl -n "not __fish_seen_subcommand_from $commands" -a export -d 'Write the headers as a tar archive'
complete -c kheadersctl -n "not __fish_seen_subcommand_from $commands" -a get -d 'Print the path of the headers'
complete -c kheadersctl -n "not __fish_seen_subcommand_from $commands" -a list -d 'List the cache'
complete -c kheadersctl -n "not __fish_seen_subcommand_from $commands" -a monitor -d 'Show what happens'
complete -c kheadersctl -n "not __fish_seen_subcommand_from $commands" -a pch -d 'Precompile the headers of a profile'
complete -c kheadersctl -n "not __fish_seen_subcommand_from $commands" -a prune -d 'Apply the limits of the configuration'
complete -c kheadersctl -n "not __fish_seen_subcommand_from $commands" -a remove -d 'Remove headers from the cache'
complete -c kheadersctl -n "not __fish_seen_subcommand_from $commands" -a status -d 'Show the state of the daemon'
complete -c kheadersctl -n "not __fish_seen_subcommand_from $commands" -a types -d 'Print the path of vmlinux.h'
complete -c kheadersctl -n "not __fish_seen_subcommand_from $commands" -a unload -d 'Unload the kernel module'
complete -c kheadersctl -n "not __fish_seen_subcommand_from $commands" -a verify -d 'Compare cached headers with what was extracted'

complete -c kheadersctl -n '__kheadersctl_uses env export get remove types verify pch' -a '(__kheadersctl_releases)'
complete -c kheadersctl -n '__kheadersctl_uses pch' -a '(__kheadersctl_profiles)'
complete -c kheadersctl -n '__kheadersctl_uses cc' -F
complete -c kheadersctl -n '__kheadersctl_uses env exec export get' -l source -x -a 'tree sysfs module-file module package' -d 'Try only this source'
complete -c kheadersctl -n '__kheadersctl_uses env exec export get' -l refresh -d 'Do not use what is cached'
complete -c kheadersctl -n '__kheadersctl_uses env' -l shell -x -a 'sh fish systemd' -d 'Whose syntax'
complete -c kheadersctl -n '__kheadersctl_uses env' -l unless-dropped -d 'Nothing where the headers were dropped'
complete -c kheadersctl -n '__kheadersctl_uses exec cc' -l release -x -a '(__kheadersctl_releases)' -d 'The kernel release'
complete -c kheadersctl -n '__kheadersctl_uses exec' -l precompiled -d 'Let bcc tools compile with precompiled headers'
complete -c kheadersctl -n '__kheadersctl_uses remove' -l force -d 'Also when a program uses them'
complete -c kheadersctl -n '__kheadersctl_uses pch cc' -l compiler -x -a '(complete -C clang)' -d 'A name such as clang-16, or a path'
complete -c kheadersctl -n '__kheadersctl_uses pch' -l header -x -d 'Exactly these headers'
complete -c kheadersctl -n '__kheadersctl_uses pch' -l drop-headers -d 'Drop the headers from the cache'
complete -c kheadersctl -n '__kheadersctl_uses pch' -l force -d 'Drop them even if no source can give them again'
complete -c kheadersctl -n '__kheadersctl_uses pch' -l arguments -d "Print the compiler's arguments"
complete -c kheadersctl -n '__kheadersctl_uses cc' -s o -r -F -d 'The output'
complete -c kheadersctl -n '__kheadersctl_uses cc' -l profile -x -a '(__kheadersctl_profiles)' -d 'Which headers'
complete -c kheadersctl -n '__kheadersctl_uses cc' -s v -l verbose -d 'Print the command'
