"""What libraries of bcc print of how they compile, and a library that is installed by being named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from kheadersd.errors import NotAvailable
from kheadersd.pch.libbcc import InstalledLibbcc, Libbcc

OWN = tuple(f"/virtual/include/bcc/{name}.h" for name in ("bpf", "bpf_workaround", "helpers"))
LIBRARY = Libbcc(Path("/usr/lib/libbcc.so.0.31.0"), "0.31", "d" * 64, tuple((name, name) for name in OWN))
DIRECTORIES = (
    *("arch/x86/include", "arch/x86/include/generated", "include"),
    *("arch/x86/include/uapi", "arch/x86/include/generated/uapi", "include/uapi", "include/generated/uapi"),
)

# What three of them print, with the LLVM that Debian has for them.
_START = (
    "clang -cc1 -triple x86_64-unknown-linux-gnu {first}-emit-llvm-bc -emit-llvm-uselists -disable-free "
    "-clear-ast-before-backend -disable-llvm-verifier -discard-value-names -main-file-name main.c "
    "-mrelocation-model pic -pic-level 2 -pic-is-pie -fno-jump-tables -mframe-pointer=none -fmath-errno "
    "-ffp-contract=on -fno-rounding-math -mconstructor-aliases -target-cpu x86-64 -tune-cpu generic "
)
_MIDDLE = (
    "-debug-info-kind=constructor -dwarf-version=4 -debugger-tuning=gdb -fdebug-compilation-dir=/c/tree "
    "-fcoverage-compilation-dir=/c/tree -nostdsysteminc -nobuiltininc -resource-dir lib/clang/{llvm} "
    "-isystem /virtual/lib/clang/include -include ./include/linux/kconfig.h "
    "-include /virtual/include/bcc/bpf.h -include /virtual/include/bcc/bpf_workaround.h "
    "-include /virtual/include/bcc/helpers.h -isystem /virtual/include -I / -D __BPF_TRACING__ "
    "-I arch/x86/include/ -I arch/x86/include/generated -I include -I arch/x86/include/uapi "
    "-I arch/x86/include/generated/uapi -I include/uapi -I include/generated/uapi -D __KERNEL__ "
    '-D KBUILD_MODNAME="bcc" '
)
_END = (
    "-fgnuc-version=4.2.1 {gmf}-vectorize-loops -vectorize-slp -faddrsig -D__GCC_HAVE_DWARF2_CFI_ASM=1 "
    "-o main.bc -x c /virtual/main.c"
)
_QUIET = (
    "-Wno-deprecated-declarations -Wno-gnu-variable-sized-type-not-at-end -Wno-pragma-once-outside-header "
    "-Wno-address-of-packed-member -Wno-unknown-warning-option -Wno-unused-value -Wno-pointer-sign "
    "-ferror-limit 19 "
)
LINES = {
    "14.0.6": _START.format(first="")
    + "-mllvm -treat-scalable-fixed-error-as-warning "
    + _MIDDLE.format(llvm="14.0.6")
    + "-O2 "
    + _QUIET
    + _END.format(gmf=""),
    "19": _START.format(first="")
    + _MIDDLE.format(llvm="19")
    + "-O2 "
    + _QUIET
    + "-fcf-protection=full "
    + _END.format(gmf="-fskip-odr-check-in-gmf "),
    "21": _START.format(first="-O2 ")
    + _MIDDLE.format(llvm="21")
    + "-D CONFIG_CC_IS_CLANG "
    + _QUIET
    + "-Wno-microsoft-anon-tag -fcf-protection=full -fms-extensions "
    + _END.format(gmf="-fskip-odr-check-in-gmf "),
}
LINE = LINES["19"]
ARM64 = (
    LINE.replace("x86_64-", "aarch64-")
    .replace("arch/x86", "arch/arm64")
    .replace(
        "-target-cpu x86-64 -tune-cpu generic", "-target-cpu generic -target-feature +v8a -target-abi aapcs"
    )
    .replace("-fgnuc", "-fno-signed-char -fgnuc")
)


class InstalledLibrary(InstalledLibbcc):
    """One that is replaced, or removed, when it is said.

    Attributes:
        now: the one that is installed; None if there is none.
    """

    def __init__(self) -> None:
        super().__init__([])
        self.now: Libbcc | None = LIBRARY

    def installed(self) -> Libbcc:
        if self.now is None:
            raise NotAvailable("libbcc is not installed")
        return self.now

    def known(self) -> Libbcc | None:
        return self.now

    def replace(self) -> None:
        self.now = dataclasses.replace(LIBRARY)
