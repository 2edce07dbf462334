/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Asks the CPU and the operating system what may run. No global: callers pass the answer on. */
#include "kernels/isa.h"

#include <stddef.h>
#include <string.h>

const struct vl_isa_level vl_isa_levels[] = {
    {"c", 0},
#ifdef VL_HAVE_AVX2
    {"avx2", VL_ISA_AVX2},
#endif
    {NULL, 0},
};

#ifdef VL_HAVE_AVX2
#include <cpuid.h>

static unsigned detect_x86(void)
{
    unsigned a, b, c, d;
    const unsigned fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29, avx2 = 1u << 5;
    const unsigned ymm_state = 6;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & (fma | osxsave | avx | f16c)) != (fma | osxsave | avx | f16c))
        return 0;
    unsigned xcr0, high;
    __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
    if ((xcr0 & ymm_state) != ymm_state || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & avx2))
        return 0;
    return VL_ISA_AVX2;
}
#endif

unsigned vl_isa_detect(void)
{
#ifdef VL_HAVE_AVX2
    return detect_x86();
#else
    return 0;
#endif
}

int vl_isa_parse(const char *name)
{
    for (const struct vl_isa_level *l = vl_isa_levels; l->name; l++)
        if (strcmp(l->name, name) == 0)
            return (int)l->isa;
    return -1;
}
