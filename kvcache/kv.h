/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The key-value cache: a pool of pages in backend memory, and sequences of cached tokens on it. Engine thread
 * only. After vl_kv_new, vl_kv_fork and a fork's first
 * vl_kv_drop nothing here calls malloc, and no key or value is touched but by
 * backend ops.
 *
 * Positions. A visual token keeps its rotary position, and so its rotated key, for ever. When tokens leave
 * the middle, the text that stands before the gap moves forward until it touches what follows (StreamingLLM
 * and StreamingVLM move the window back instead, which costs ten times the work and, rotated in place,
 * drifts); its keys are rotated anew from a copy kept from before rotation, never from rotated ones. Only
 * differences of positions reach the logits. A gap behind a visual segment stays open until that segment
 * leaves. Positions are int64 and grow without bound.
 *
 * The trap: a slot is a logical index, good until the next evict or truncate of its sequence.
 */
#ifndef VL_KVCACHE_KV_H
#define VL_KVCACHE_KV_H
#include "base/cleanup.h"
#include "kernels/attention.h"
#include "kernels/backend.h"
#include "kvcache/policy.h"

/* VL_KV_FULL: the sequence has used up its own share; evict, or give up. What forks hold never brings it
 * about. VL_KV_BUSY: forks alone hold what is needed; unref the oldest fork and call again. */
enum { VL_KV_FULL = 1, VL_KV_BUSY = 2 };

struct vl_kv_pool; /* all pages of a device, engine lifetime; counted, each sequence holds one reference */
struct vl_kv;      /* one sequence, session lifetime; one owner */

struct vl_kv_geometry {
    uint32_t n_layers, n_kv_heads, head_dim;
    uint32_t page_slots; /* tokens of a page; 16 to 64 is sensible, a unit's visual tokens should fill it */
    enum vl_dtype k_dtype, v_dtype; /* VL_F16, VL_BF16 or VL_F32 */
    const struct vl_rope *rope;     /* copied */
};

/* Set aside for forks, so that a question never shortens the window of the commentary. A fork comes to hold
 * alone what its parent replaces or evicts meanwhile: the text that slides, frames that leave; and what it
 * appends itself. */
struct vl_kv_reserve {
    uint32_t max_forks;            /* 0: no forks at all */
    uint32_t max_text, max_visual; /* tokens of each kind that one fork may come to hold alone, question and
                                    * reply among the text */
};

/* A run of tokens that arrive together: system prompt, time stamp, frame, caption, question. A visual segment
 * leaves the positions to what follows only as a whole; text closes up token by token. */
struct vl_kv_segment {
    enum vl_kv_kind kind;
    bool pinned; /* the sink: never evicted, slides forward instead */
    uint32_t n;
    uint64_t unit;              /* not less than the last appended; -EINVAL */
    int64_t extent;             /* positions it takes up, counted before pruning; text: n */
    const int64_t (*rel)[3];    /* [n] from the segment's base, each in [0, extent); NULL: counted on from the
                                 * tokens that the open segment has. Text: NULL */
    const uint16_t (*place)[2]; /* [n] y, x in the picture's grid, for policies; NULL: one row. Text: NULL */
};

/* Bytes of pool that n_text and n_visual tokens take in whole pages, each kind in n_runs runs (0 counts as
 * 1). */
size_t vl_kv_geometry_bytes(const struct vl_kv_geometry *g, uint32_t n_text, uint32_t n_visual,
                            uint32_t n_runs);
/* Scratch that vl_kv_evict needs. vl_kv_store needs [n, n_kv_heads + 1, head_dim] f32 for its n rows. */
size_t vl_kv_geometry_scratch(const struct vl_kv_geometry *g);

/* Takes `bytes` of backend memory of x's device, in whole pages, and gives them back with the last reference;
 * the device must live longer. -EINVAL: a geometry that cannot be, or bytes too few for the reserve and one
 * page. */
int vl_kv_pool_new(struct vl_kv_pool **ret, struct vl_exec *x, const struct vl_kv_geometry *g, size_t bytes,
                   const struct vl_kv_reserve *forks /* or NULL */, struct vl_error *err);
struct vl_kv_pool *vl_kv_pool_unref(struct vl_kv_pool *pool);
VL_DEFINE_AUTO(vl_kv_pool)

struct vl_kv_pool_stats {
    size_t bytes, bytes_used;          /* of backend memory; used: held by any sequence or fork */
    size_t bytes_reserve, bytes_forks; /* set aside for forks; held by forks alone */
    uint32_t n_sequences, n_forks, n_forks_left;
};
void vl_kv_pool_get_stats(const struct vl_kv_pool *pool, struct vl_kv_pool_stats *ret);

/* An empty sequence. policy: NULL never evicts. p is checked against the policy's params (-EINVAL). */
int vl_kv_new(struct vl_kv **ret, struct vl_kv_pool *pool, const struct vl_kv_policy *policy,
              const struct vl_params *p, uint32_t max_tokens, struct vl_error *err);
struct vl_kv *vl_kv_unref(struct vl_kv *kv);
VL_DEFINE_AUTO(vl_kv)

/* Makes room for s->n tokens, all or none, and gives them positions; *ret_slot is the first. Their keys and
 * values are what vl_kv_store puts there, for every layer, before anybody reads them. A visual append of the
 * same unit extends the open visual segment until a text append or a commit: a long frame may come in pieces,
 * each with the extent of the whole. VL_KV_FULL: vl_kv_evict for some tokens and again while n > 0; on a
 * fork: give up, the parent is never evicted for it. VL_KV_BUSY: never on a fork. */
int vl_kv_append(struct vl_kv *kv, struct vl_exec *x, const struct vl_kv_segment *s, uint32_t *ret_slot);

/* One layer's keys and values of slots [slot, slot + n) that were appended and not yet committed.
 * k (not rotated), v: [n, n_kv_heads, head_dim] or [n, n_kv_heads * head_dim] f32, rows may be strided. */
int vl_kv_store(struct vl_kv *kv, struct vl_exec *x, unsigned layer, uint32_t slot, const struct vl_tensor *k,
                const struct vl_tensor *v);

/* In how many layers the policy wants attention probed; 0: it does not look, or this is a fork. */
uint32_t vl_kv_probes(const struct vl_kv *kv);
/* What slots [0, n) received from rows of which slot n - 1 is the last: mass [n_heads, n] on the host, summed
 * over n_layers layers. Kept for the policy until the commit; a truncate below n forgets it. */
void vl_kv_observe(struct vl_kv *kv, const float *mass, uint32_t n_heads, uint32_t n, uint32_t n_layers);

void vl_kv_commit(struct vl_kv *kv); /* forks and policies see committed tokens only */

/* After every commit with n_wanted 0: the policy's own windows are enforced. *ret_n: tokens that went, never
 * of the uncommitted; 0 on a fork and without a policy. VL_KV_BUSY: nothing was done. After a negative result
 * the sequence is good for vl_kv_unref only. */
int vl_kv_evict(struct vl_kv *kv, struct vl_exec *x, uint32_t n_wanted, uint32_t *ret_n);

/* Likewise, what is left of the oldest picture and nothing else, whatever the policy would choose. */
int vl_kv_evict_picture(struct vl_kv *kv, struct vl_exec *x, uint32_t *ret_n);

/* Undo: rejected drafts, abandoned frames. Drops all slots from n_tokens on; the next position follows the
 * last token (the last visual segment's extent) that is left. -EINVAL: more than there are. */
int vl_kv_truncate(struct vl_kv *kv, uint32_t n_tokens);

/* A copy of the committed tokens that shares their pages, for at most max_more further ones; pages are copied
 * when either side writes. Nothing done to a fork changes its parent, and nothing done to the parent, its end
 * included, changes the fork. VL_KV_FULL: max_forks live already, or the reserve is used up (Busy). */
int vl_kv_fork(struct vl_kv **ret, struct vl_kv *parent, uint32_t max_more);

/* Layers [first_layer, end_layer) of a fork stop seeing these committed visual tokens, each by its slot, in
 * no order. No data moves and no page is given back: other layers, and the parent, see them. Again adds to
 * it; a truncate forgets it of the slots that go. The first one makes its tables. -EINVAL: no fork, no such
 * layer, or a slot that is not one of those; -ENOMEM: nothing was dropped. */
int vl_kv_drop(struct vl_kv *kv, unsigned first_layer, unsigned end_layer, const uint32_t *slot, uint32_t n);

/* Whether a layer sees a slot, and the visual tokens that it sees, in order. ret has room for all tokens; the
 * answer is how many. */
struct vl_kv_visual {
    uint32_t slot, at; /* at: its place in the layer's view */
    uint32_t segment;  /* ascending */
    int64_t rel[3];    /* position from the segment's base */
};
bool vl_kv_sees(const struct vl_kv *kv, unsigned layer, uint32_t slot);
uint32_t vl_kv_visual(const struct vl_kv *kv, unsigned layer, struct vl_kv_visual *ret);

/* What attention reads: slots 0 .. n_tokens, in order, without what was dropped for this layer. Borrowed from
 * kv until its next append, evict, drop or truncate; k and v of a page keep their addresses while its
 * tokens stay and do not slide. -EINVAL: no such layer. */
int vl_kv_view(const struct vl_kv *kv, unsigned layer, struct vl_kv_view *ret);
/* [n_tokens - first_slot][3] rotary positions, host memory, borrowed as the view is. */
const int64_t (*vl_kv_positions(const struct vl_kv *kv, uint32_t first_slot))[3];

uint32_t vl_kv_n_tokens(const struct vl_kv *kv);
uint32_t vl_kv_n_committed(const struct vl_kv *kv);

struct vl_kv_stats {
    uint32_t n_text, n_visual; /* tokens, pinned ones included */
    uint32_t n_pinned;
    size_t bytes;       /* of the pages it holds, shared ones included */
    uint64_t n_evicted; /* tokens, since vl_kv_new */
    uint64_t n_evictions;
};
void vl_kv_get_stats(const struct vl_kv *kv, struct vl_kv_stats *ret);

/* The units whose tokens of this kind are held, pinned tokens apart; n 0: none, and oldest and newest are 0.
 */
struct vl_kv_units {
    uint32_t n;
    uint64_t oldest, newest;
};
void vl_kv_units(const struct vl_kv *kv, enum vl_kv_kind kind, struct vl_kv_units *ret);
#endif
