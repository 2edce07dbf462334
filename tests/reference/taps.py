# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Writes tap files, which tests/golden/taps.h reads: named arrays, little endian.

    magic    8 bytes "VLTAPS01"
    count    u32, then 4 bytes of zeros
    entries  80 bytes each: name char[48] ending in NUL, type u32 (0 f32, 1 i32, 2 u8), n_dims u32,
             dim u32[4] outermost first, offset u64 from the start of the file
    data     each array at a multiple of 64 bytes
"""
import struct

import numpy as np

TYPES = {np.dtype("float32"): 0, np.dtype("int32"): 1, np.dtype("uint8"): 2}


def write_taps(path, arrays):
    """arrays: name -> numpy array of at most four dimensions"""
    offset = 16 + 80 * len(arrays)
    head, body = b"VLTAPS01" + struct.pack("<II", len(arrays), 0), b""
    for name, array in arrays.items():
        array = np.ascontiguousarray(array)
        pad = -(offset + len(body)) % 64
        body += b"\0" * pad
        dims = list(array.shape) + [1] * (4 - array.ndim)
        assert len(name) < 48, name
        head += struct.pack("<48sII4IQ", name.encode(), TYPES[array.dtype], array.ndim, *dims, offset + len(body))
        body += array.tobytes()
    path.write_bytes(head + body)
