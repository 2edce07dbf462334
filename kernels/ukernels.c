/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The whole table is its groups; each group climbs its own staircase (cpu/<group>_c.c). */
#include "kernels/ukernels.h"

#include <string.h>

void vl_ukernels_init(struct vl_ukernels *k, unsigned isa)
{
    memset(k, 0, sizeof(*k));
    vl_norm_ukernels_init(&k->norm, isa);
    vl_act_ukernels_init(&k->act, isa);
    vl_rope_ukernels_init(&k->rope, isa);
    vl_convert_ukernels_init(&k->convert, isa);
    vl_attn_ukernels_init(&k->attn, isa);
    vl_matmul_ukernels_init(k->matmul, isa);
}
