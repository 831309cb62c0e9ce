/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the kernel's headers need and only the kernel's Makefiles define, with -D on the command line of its
 * compiler. It is included behind <linux/kconfig.h>: the tree's own configuration decides.
 *
 * Not here: -D__KERNEL__, -DKBUILD_MODNAME and -DCC_USING_FENTRY, which every way of compiling gives. And what
 * headers do well without: ARM64_ASM_ARCH and CONFIG_CC_HAS_K_CONSTRAINT are only about assembly,
 * CC_USING_PATCHABLE_FUNCTION_ENTRY and CC_USING_NOP_MCOUNT about the kernel's own functions, RANDSTRUCT about
 * an order of members that no other compiler knows.
 */
#ifndef __KHEADERS_MAKEFILE_H
#define __KHEADERS_MAKEFILE_H

/* arch/arm64/Makefile. <asm/memory.h> computes addresses of it; other architectures define it in headers. */
#if defined(CONFIG_ARM64) && !defined(KASAN_SHADOW_SCALE_SHIFT)
#if defined(CONFIG_KASAN_SW_TAGS)
#define KASAN_SHADOW_SCALE_SHIFT 4
#elif defined(CONFIG_KASAN_GENERIC)
#define KASAN_SHADOW_SCALE_SHIFT 3
#endif
#endif

/* scripts/Makefile.lib, by the file that is compiled. <media/v4l2-subdev.h> and <linux/init.h> use them. */
#ifndef KBUILD_BASENAME
#define KBUILD_BASENAME KBUILD_MODNAME
#endif
#ifndef KBUILD_MODFILE
#define KBUILD_MODFILE KBUILD_MODNAME
#endif
#ifndef __KBUILD_MODNAME
#define __KBUILD_MODNAME kmod_bpf
#endif

#endif
