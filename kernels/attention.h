/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_KERNELS_ATTENTION_H
#define VL_KERNELS_ATTENTION_H
#include "kernels/tensor.h"

/* Plain description of cached keys and values in backend memory, so that kernels/ need not know kvcache/.
 * Precision is per page, so old pages may be 2-bit while the window is f16. Addresses are stable while a page
 * lives. */
struct vl_kv_page {
    void *k, *v; /* [n_tokens, n_kv_heads, head_dim]; k rotated */
    void *k_raw; /* the same before rotation, text pages only, else NULL */
    uint32_t n_tokens;
    uint8_t k_dtype, v_dtype;
};

/* What one layer sees; n_tokens may differ from layer to layer. The encoder's keys are a view with one page.
 * Slot i of the view is token i counted through the pages in order. */
struct vl_kv_view {
    const struct vl_kv_page *page;
    uint32_t n_pages, n_tokens;
    uint32_t first_kv_head; /* 0: heads of a layer keep the same tokens so far, anything else is refused */
    uint32_t n_kv_heads, head_dim;
};
/* One sequence's share of the query rows. */
struct vl_attn_seq {
    const struct vl_kv_view *kv;
    uint32_t first_query, n_queries;
};
struct vl_attn_params {
    float scale;
    const uint32_t (*visible)[2]; /* [n_q] slots [from, to): causal, windowed, per image, all; host memory */
    const struct vl_tensor *key_bias; /* [n_tokens] f32 added to the logits (log of merged size), or NULL */
    struct vl_tensor
        *ret_lse; /* [n_q, n_heads] f32, or NULL: partial results over disjoint keys merge by it */
};
#endif
