/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* C reference of attention over one tile of keys; ukernels.h has the recurrence. */
#include "kernels/cpu/avx2.h"

#include <math.h>
#include <string.h>

static void turn_c(float *dst, const float *src, size_t lds, size_t n_keys, size_t d)
{
    memset(dst, 0, d * VL_ATTN_KEYS * sizeof(*dst));
    for (size_t j = 0; j < n_keys; j++)
        for (size_t i = 0; i < d; i++)
            dst[i * VL_ATTN_KEYS + j] = src[j * lds + i];
}

static double logit(const struct vl_attn_tile *t, size_t r, size_t j)
{
    double s = t->bias ? (double)t->bias[j] : 0;
    for (size_t i = 0; i < t->d; i++)
        s += (double)t->q[r * t->d + i] * t->kt[i * VL_ATTN_KEYS + j];
    return s;
}

static void row_c(const struct vl_attn_tile *t, size_t r)
{
    double s[VL_ATTN_KEYS], top = t->m[r];
    for (size_t j = t->seen[r][0]; j < t->seen[r][1]; j++) {
        s[j] = logit(t, r, j);
        top = fmax(top, s[j]);
    }
    if (top == -(double)INFINITY)
        return;
    top = (float)top; /* what the state will hold */
    double old = exp(t->m[r] - top), sum = t->l[r] * old;
    for (size_t j = t->seen[r][0]; j < t->seen[r][1]; j++) {
        s[j] = exp(s[j] - top);
        sum += s[j];
    }
    for (size_t i = 0; t->v && i < t->d; i++) {
        double o = t->o[r * t->d + i] * old;
        for (size_t j = t->seen[r][0]; j < t->seen[r][1]; j++)
            o += s[j] * t->v[j * t->d + i];
        t->o[r * t->d + i] = (float)o;
    }
    t->m[r] = (float)top;
    t->l[r] = (float)sum;
}

static void tile_c(const struct vl_attn_tile *t)
{
    for (size_t r = 0; r < t->n_rows; r++)
        if (t->seen[r][0] < t->seen[r][1])
            row_c(t, r);
}

static void mass_c(float *mass, const struct vl_attn_tile *t)
{
    for (size_t j = 0; j < t->n_keys; j++) {
        double sum = mass[j];
        for (size_t r = 0; r < t->n_rows; r++)
            if (j >= t->seen[r][0] && j < t->seen[r][1] && t->l[r] > 0)
                sum += exp(logit(t, r, j) - t->m[r]) / t->l[r];
        mass[j] = (float)sum;
    }
}

void vl_attn_ukernels_init(struct vl_attn_ukernels *k, unsigned isa)
{
    *k = (struct vl_attn_ukernels){turn_c, tile_c, mass_c, "c"};
#ifdef VL_HAVE_AVX2
    if (isa & VL_ISA_AVX2)
        vl_attn_ukernels_init_avx2(k);
#endif
    (void)isa; /* where only C is built */
}
