# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes libbcc print how it compiles, on stderr: ``python3 -c TEXT LIBRARY CFLAG…``, in a sandbox.

The tree is in BCC_KERNEL_SOURCE. What is compiled is an error, so that nothing follows.
"""

import ctypes
import sys

_DEBUG_PREPROCESSOR = 4  # src/cc/bpf_module.h

if __name__ == "__main__":
    library, *words = sys.argv[1:]
    flags = (ctypes.c_char_p * len(words))(*(word.encode() for word in words))
    create = ctypes.CDLL(library).bpf_module_create_c_from_string
    create.restype = ctypes.c_void_p
    create.argtypes = (
        *(ctypes.c_char_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_int, ctypes.c_bool, ctypes.c_char_p),
    )
    allow_rlimit, device = False, None
    create(b"#error stop\n", _DEBUG_PREPROCESSOR, flags, len(words), allow_rlimit, device)
