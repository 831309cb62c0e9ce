/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lets a compiler for BPF read headers that contain assembly of the host.
 *
 * The compiler refuses the host's registers and constraints where it reads them, also in functions that no
 * program calls. So in headers the operands of every statement of assembly are replaced by one string that no
 * assembler accepts: headers compile, and a program that calls such a function is refused, instead of being
 * compiled to something else. In the program itself, at include level 0, assembly is BPF's and stays as it
 * is; that also holds for what a macro of a header expands to there.
 *
 * It is included behind <linux/compiler_types.h>, which redefines some of these words.
 */
#ifndef __KHEADERS_WITHOUT_ASSEMBLY_H
#define __KHEADERS_WITHOUT_ASSEMBLY_H

/*
 * __kheaders_pick(__INCLUDE_LEVEL__, here, there) is "here" at level 0, and "there" at all others:
 * __kheaders_level_0 has a comma in it, which makes "here" the second argument of __kheaders_second().
 */
#define __kheaders_level_0 ~,
#define __kheaders_level(level) __kheaders_level_##level
#define __kheaders_second(first, second, ...) second
#define __kheaders_choose(...) __kheaders_second(__VA_ARGS__, )
#define __kheaders_pick(level, here, there) __kheaders_choose(__kheaders_level(level) here, there)

#define __kheaders_refused ("assembly of the host: this function cannot be used in BPF")

/*
 * Assembly is the keyword, any number of qualifiers in any order, and operands in parentheses. A macro with
 * parameters stands for itself where no parenthesis follows, so that of all these words only the last one
 * before the operands is replaced. Clang accepts a string without operands behind all qualifiers, "goto" too.
 */

/*
 * Without a qualifier it may also name a register, as in "register unsigned long sp asm("rsp")". So what
 * replaces it is the name of a register of BPF's, which is no statement either.
 */
#define asm(...) asm __kheaders_pick(__INCLUDE_LEVEL__, (__VA_ARGS__), ("r10"))
#define __asm(...) __asm __kheaders_pick(__INCLUDE_LEVEL__, (__VA_ARGS__), ("r10"))
#define __asm__(...) __asm__ __kheaders_pick(__INCLUDE_LEVEL__, (__VA_ARGS__), ("r10"))

#define volatile(...) volatile __kheaders_pick(__INCLUDE_LEVEL__, (__VA_ARGS__), __kheaders_refused)
#define __volatile(...) __volatile __kheaders_pick(__INCLUDE_LEVEL__, (__VA_ARGS__), __kheaders_refused)
#define __volatile__(...) __volatile__ __kheaders_pick(__INCLUDE_LEVEL__, (__VA_ARGS__), __kheaders_refused)
#define goto(...) goto __kheaders_pick(__INCLUDE_LEVEL__, (__VA_ARGS__), __kheaders_refused)

/*
 * The kernel's headers redefine "inline" and "__inline__" with attributes, which are no qualifiers of assembly:
 * there "__inline" is for that, in asm_inline (since Linux 5.0, without "volatile" since 6.16).
 */
#define __inline(...) __inline __kheaders_pick(__INCLUDE_LEVEL__, (__VA_ARGS__), __kheaders_refused)
#ifndef __inline__
#define __inline__(...) __inline__ __kheaders_pick(__INCLUDE_LEVEL__, (__VA_ARGS__), __kheaders_refused)
#endif
#ifndef inline
#define inline(...) inline __kheaders_pick(__INCLUDE_LEVEL__, (__VA_ARGS__), __kheaders_refused)
#endif

#endif
