/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_KERNELS_ISA_H
#define VL_KERNELS_ISA_H

/* Bundles of instructions that ship together; a bit is set only when the CPU has all of it and the OS saves
 * its registers. 0 is the C reference. */
enum vl_isa { VL_ISA_AVX2 = 1u << 0 /* avx2 + fma + f16c */ };

/* The levels of the staircase, lowest first: name and every bit up to it. Ends with name NULL. */
struct vl_isa_level {
    const char *name; /* "c", "avx2" */
    unsigned isa;
};
extern const struct vl_isa_level vl_isa_levels[];

/* What this machine grants. */
unsigned vl_isa_detect(void);
/* The bits of the level called name; -1 if there is none. */
int vl_isa_parse(const char *name);
#endif
