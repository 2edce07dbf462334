/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* C reference of the conversions: the formats' own. */
#include "kernels/cpu/avx2.h"
#include "kernels/quant/quant.h"

void vl_convert_ukernels_init(struct vl_convert_ukernels *k, unsigned isa)
{
    *k = (struct vl_convert_ukernels){vl_f16_unpack, vl_bf16_unpack, vl_f16_pack, vl_bf16_pack, "c"};
#ifdef VL_HAVE_AVX2
    if (isa & VL_ISA_AVX2)
        vl_convert_ukernels_init_avx2(k);
#endif
    (void)isa; /* where only C is built */
}
