# SPDX-License-Identifier: LGPL-2.1-or-later
# For "imports = [ ./module.nix ]; services.kheadersd.enable = true;". It was evaluated, and never run.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.kheadersd;
in
{
  options.services.kheadersd = {
    enable = lib.mkEnableOption "kheadersd, which provides kernel headers to tracing tools";
    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.callPackage ./package.nix { };
      description = "The package of kheadersd.";
    };
    settings = lib.mkOption {
      type = lib.types.lines;
      default = "";
      description = "The contents of /etc/kheadersd.conf, see kheadersd.conf(5).";
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];
    environment.etc."kheadersd.conf".text = cfg.settings;
    services.dbus.packages = [ cfg.package ];
    security.polkit.enable = true;
    systemd.packages = [ cfg.package ];
    systemd.tmpfiles.packages = [ cfg.package ];
    users.users.kheadersd = {
      isSystemUser = true;
      group = "kheadersd";
      description = "Kernel headers service";
    };
    users.groups.kheadersd = { };
    # NixOS ignores [Install]; these are the units that the preset file names.
    systemd.timers.kheaders.wantedBy = [ "multi-user.target" ];
    systemd.timers.kheaders-prune.wantedBy = [ "kheaders.target" ];
    systemd.paths.kheaders-dkms.wantedBy = [ "kheaders.target" ];
    systemd.targets.multi-user.wants = [ "run-kheaders-build.automount" ];
  };
}
