/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The registry of stored formats, made from quant/formats.def. */
#include "kernels/dtype.h"
#include "kernels/quant/quant.h"

static const struct vl_dtype_info formats[] = {
#define VL_FORMAT(id, ...) [VL_##id] = {__VA_ARGS__},
#include "kernels/quant/formats.def"
};

const struct vl_dtype_info *vl_dtype_info(enum vl_dtype t)
{
    return &formats[t];
}

size_t vl_dtype_row_bytes(enum vl_dtype dtype, size_t n)
{
    return n / formats[dtype].block_len * formats[dtype].block_bytes;
}
