#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Installs kheadersd on this machine, or below DESTDIR, and uninstalls it.
#
#   units/install.sh install
#   units/install.sh uninstall [--purge]
#
# Installing writes a list of all files, links and directories that it makes, and uninstalling removes what is on the
# list. The cache and the daemon's user stay, unless --purge is given. Files of the administrator in /etc stay always.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
root=${DESTDIR:-}
root=${root%/}
library=/usr/lib/kheadersd
list=$library/installed
cache=/var/cache/kheaders
user=kheadersd

enabled="run-kheaders-build.automount kheaders.timer kheaders-link.service kheaders-boot.service kheaders-dkms.path
    kheaders-prune.timer"
all="run-kheaders-build.automount run-kheaders-build.mount kheaders.timer kheaders.target
    kheaders-prune.timer kheaders-dkms.path kheaders-dkms.service kheaders-boot.service kheaders-prune.service
    kheaders-provide.service kheaders-link.service kheadersd.service kheaders-fetch.socket kheaders-compile.socket
    kheaders-module.service"

main() {
    case ${1:-} in
        install) install_all ;;
        uninstall) uninstall_all "${2:-}" ;;
        *) sed -n '3,/^[^#]/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
}

is_live() { [ -z "$root" ]; }
has_systemd() { is_live && [ -d /run/systemd/system ]; }

# Installing. All paths are as they will be seen below the root.

install_all() {
    previous=
    if [ -e "$root$list" ]; then previous=$(cat "$root$list"); fi
    new=$(mktemp)
    trap 'rm -f "$new"' EXIT
    printf '%s\n' "$previous" | grep '/$' >"$new" || true
    put_package
    put_units
    put_rest
    for unit in $enabled; do enable_unit "$unit"; done
    remove_what_left
    compile_package
    note "$list"
    install -m 644 "$new" "$root$list"
    settle
    if is_live; then start || true; fi
}

note() { printf '%s\n' "$1" >>"$new"; }

was_installed() {
    case "
$previous
" in *"
$1
"*) return 0 ;; esac
    return 1
}

# Make a directory, and note it if it is new.
directory() {
    [ ! -d "$root$1" ] || return 0
    directory "$(dirname "$1")"
    install -d -m 755 "$root$1"
    note "$1/"
}

# put MODE SOURCE TARGET
put() {
    directory "$(dirname "$3")"
    # Another file under the same name: a program that runs from the old one is not disturbed.
    install -m "$1" "$2" "$root$3.new"
    mv -f "$root$3.new" "$root$3"
    note "$3"
}

put_link() {
    directory "$(dirname "$2")"
    ln -sfn "$1" "$root$2"
    note "$2"
}

put_package() {
    for file in $(cd "$here" && find kheadersd -name __pycache__ -prune -o -type f -print | LC_ALL=C sort); do
        put 644 "$here/$file" "$library/$file"
    done
    # For "from kheadersd.bcc import BPF".
    put_link "$library/kheadersd" /usr/lib/python3/dist-packages/kheadersd
    launcher /usr/bin/kheadersd kheadersd.__main__
    launcher /usr/bin/kheadersctl kheadersd.cli.__main__
    launcher "$library/fetch" kheadersd.sandbox.unit_server
    launcher "$library/compile" kheadersd.sandbox.unit_server
}

compile_package() {
    python3 -m compileall -q ${root:+-s "$root" -p /} "$root$library/kheadersd"
    for file in $(cd "$root/" && find "${library#/}/kheadersd" -path '*/__pycache__*' | LC_ALL=C sort); do
        if [ -d "$root/$file" ]; then note "/$file/"; else note "/$file"; fi
    done
}

# Isolated: neither the environment nor a user's own packages have a say in a daemon or in root's command.
launcher() {
    text=$(mktemp)
    cat >"$text" <<EOF
#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "$library")
from $2 import main

sys.exit(main())
EOF
    put 755 "$text" "$1"
    rm -f "$text"
}

put_units() {
    for file in "$here"/units/kheaders*.service "$here"/units/*.timer "$here"/units/*.target \
        "$here"/units/*.path "$here"/units/*.socket "$here"/units/*.automount "$here"/units/*.mount; do
        [ ! -e "$file" ] || put 644 "$file" "/usr/lib/systemd/system/${file##*/}"
    done
    put 755 "$here/units/provide-build" "$library/provide-build"
}

put_rest() {
    put 644 "$here/dbus-policy/org.kheaders.Provide.conf" /usr/share/dbus-1/system.d/org.kheaders.Provide.conf
    put 644 "$here/units/org.kheaders.Provide.service" /usr/share/dbus-1/system-services/org.kheaders.Provide.service
    put 644 "$here/kheadersd/data/org.kheaders.Provide.xml" /usr/share/dbus-1/interfaces/org.kheaders.Provide.xml
    put 644 "$here/units/org.kheaders.provide.policy" /usr/share/polkit-1/actions/org.kheaders.provide.policy
    put 644 "$here/units/org.kheaders.provide.rules" /usr/share/polkit-1/rules.d/org.kheaders.provide.rules
    put 644 "$here/units/kheadersd.sysusers" /usr/lib/sysusers.d/kheadersd.conf
    put 644 "$here/units/kheadersd.tmpfiles" /usr/lib/tmpfiles.d/kheadersd.conf
    put 644 "$here/units/kheadersd.catalog" /usr/lib/systemd/catalog/kheadersd.catalog
    for page in "$here"/man/*; do
        put 644 "$page" "/usr/share/man/man${page##*.}/${page##*/}"
    done
    put 644 "$here/completions/kheadersctl.bash" /usr/share/bash-completion/completions/kheadersctl
    put 644 "$here/completions/kheadersctl.fish" /usr/share/fish/vendor_completions.d/kheadersctl.fish
    put 644 "$here/completions/_kheadersctl" /usr/share/zsh/vendor-completions/_kheadersctl
    put 755 "$here/units/85-kheadersd.install" /usr/lib/kernel/install.d/85-kheadersd.install
    for event in postinst postrm; do
        put_link /usr/lib/kernel/install.d/85-kheadersd.install "/etc/kernel/$event.d/kheadersd"
    done
}

link_of() { echo "/etc/systemd/system/$(sed -n 's/^WantedBy=//p' "$here/units/$1").wants/$1"; }

is_enabled() { [ -L "$(link_of "$1")" ]; }

# As systemctl enable does it, also where there is no systemctl. A unit that was disabled before stays disabled.
enable_unit() {
    link=$(link_of "$1")
    if was_installed "$link" && [ ! -L "$root$link" ]; then note "$link"; return 0; fi
    put_link "/usr/lib/systemd/system/$1" "$link"
}

# An older version's files that this one does not have, and all that was compiled.
remove_what_left() {
    printf '%s\n' "$previous" | while read -r name; do
        case $name in '' | */ | "$list") continue ;; esac
        grep -qxF -- "$name" "$new" || rm -f "$root$name"
    done
}

# Running, or being ready for it.

settle() {
    if is_live || [ -e "$root/etc/passwd" ]; then make_user; fi
    if [ -e "$root/var/lib/systemd/catalog/database" ]; then update_catalog; fi
}

make_user() {
    if has_in passwd; then return 0; fi
    if command -v systemd-sysusers >/dev/null; then
        systemd-sysusers --root="$root/" kheadersd.conf
    else
        useradd ${root:+--root "$root"} --system --user-group --no-create-home --home-dir / \
            --shell /usr/sbin/nologin --comment "Kernel headers service" "$user"
    fi
}

# Whether the user, or the group, is there.
has_in() { grep -q "^$user:" "$root/etc/$1" 2>/dev/null; }

update_catalog() {
    ! command -v journalctl >/dev/null || journalctl --root="$root/" --update-catalog || true
}

reload_bus() {
    dbus-send --system --type=method_call --print-reply --dest=org.freedesktop.DBus / \
        org.freedesktop.DBus.ReloadConfig >/dev/null 2>&1 || true
}

start() {
    reload_bus
    if ! has_systemd; then
        echo "No systemd runs here: the bus starts kheadersd when it is first asked for headers." >&2
        return 0
    fi
    systemd-tmpfiles --create kheadersd.conf
    systemctl daemon-reload
    systemctl try-restart kheadersd.service
    ! is_enabled run-kheaders-build.automount || systemctl start run-kheaders-build.automount
    # The headers may be needed at once. The timer starts the rest a second later.
    ! is_enabled kheaders-link.service || systemctl start kheaders-link.service
    ! is_enabled kheaders.timer || systemctl restart kheaders.timer
}

# Uninstalling

uninstall_all() {
    case $1 in '' | --purge) ;; *) echo "install.sh: $1 is not --purge" >&2; exit 2 ;; esac
    if [ -e "$root$list" ]; then
        stop
        installed=$(cat "$root$list")
        printf '%s\n' "$installed" | while read -r name; do
            case $name in */) ;; *) rm -f "$root$name" ;; esac
        done
        # What another version of Python has compiled.
        find "$root$library" -name __pycache__ -exec rm -rf {} + 2>/dev/null || true
        printf '%s\n' "$installed" | sed -n 's|/$||p' | LC_ALL=C sort -r | while read -r name; do
            rmdir "$root$name" 2>/dev/null || true
        done
        rm -f "$root"/var/lib/systemd/timers/stamp-kheaders-prune.timer
        if [ -e "$root/var/lib/systemd/catalog/database" ]; then update_catalog; fi
        if has_systemd; then systemctl daemon-reload; fi
        if is_live; then reload_bus; fi
    elif [ -z "$1" ]; then
        echo "install.sh: kheadersd is not installed: there is no $root$list" >&2
        exit 1
    fi
    [ -z "$1" ] || purge
}

stop() {
    if has_systemd; then
        # shellcheck disable=SC2086 # a word for each unit: one transaction stops them in order
        systemctl stop $all
        # shellcheck disable=SC2086
        systemctl reset-failed $all 2>/dev/null || true
    elif is_live; then
        stop_unmanaged
    fi
    if is_live; then rm -rf /run/kheaders; fi
    find "$root/lib/modules/" -mindepth 2 -maxdepth 2 -name build -type l -lname /run/kheaders/build -delete \
        2>/dev/null || true
}

stop_unmanaged() {
    pid=$(dbus-send --system --print-reply=literal --dest=org.freedesktop.DBus / \
        org.freedesktop.DBus.GetConnectionUnixProcessID string:org.kheaders.Provide 2>/dev/null) || return 0
    kill "${pid##* }"
}

purge() {
    rm -rf "$root$cache"
    ! has_in passwd || userdel ${root:+--root "$root"} "$user"
    # Goes with the user or not, as /etc/login.defs says.
    ! has_in group || groupdel ${root:+--root "$root"} "$user"
}

main "$@"
