# SPDX-License-Identifier: LGPL-2.1-or-later
# For "pkgs.callPackage ./package.nix { }". It was evaluated, and never built.
{
  lib,
  stdenv,
  meson,
  ninja,
  python3,
  kmod,
  util-linux,
  systemd,
  coreutils,
  findutils,
  gnused,
}:
let
  # Not "with packages": the systemd among them is the library for Python.
  python = python3.withPackages (packages: [
    packages.dbus-next
    packages.pyudev
    packages.systemd
    packages.zstandard
  ]);
in
stdenv.mkDerivation {
  pname = "kheadersd";
  version = "0.1.0";
  src = lib.cleanSource ../..;

  nativeBuildInputs = [
    meson
    ninja
  ];
  buildInputs = [ python ];

  # The Python package is beside the launchers, which know where. What a unit runs has no PATH but systemd's.
  mesonFlags = [
    "-Dpython=${python}/bin/python3"
    "-Dsystemdsystemunitdir=lib/systemd/system"
  ];
  postPatch = ''
    substituteInPlace units/kheaders-module.service units/kheaders-module-unload.service \
      --replace-quiet /sbin/modprobe ${kmod}/bin/modprobe \
      --replace-quiet /usr/bin/setpriv ${util-linux}/bin/setpriv
    substituteInPlace units/kheadersd.service.in --replace-quiet /bin/sh ${stdenv.shell}
    for script in units/link-build units/provide-build; do
      substituteInPlace $script --replace-fail 'set -eu' \
        'set -eu; PATH=${
          lib.makeBinPath [
            coreutils
            findutils
            gnused
            systemd
            util-linux
          ]
        }'
    done
  '';

  meta = {
    description = "Kernel headers of the running kernel for tracing tools";
    license = lib.licenses.lgpl21Plus;
    platforms = lib.platforms.linux;
    mainProgram = "kheadersctl";
  };
}
