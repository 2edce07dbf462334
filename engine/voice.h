/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_ENGINE_VOICE_H
#define VL_ENGINE_VOICE_H
#include "decoder/sampler.h"
#include "decoder/tokenizer.h"
#include "engine/machine.h"
#include "engine/outbox.h"
#include "engine/text_filter.h"

/* One sequence that is fed and that speaks: the commentary of a session, or the answer of a turn on its fork.
 * IDLE -> PREFILL -> STEP -> IDLE, or PREFILL -> IDLE when nothing is to be said. Each call of prefill and
 * step is one bounded quantum. Embedded in its session or turn; engine thread. */
enum vl_voice_state { VL_VOICE_IDLE, VL_VOICE_PREFILL, VL_VOICE_STEP, VL_VOICE_STATES };
enum { VL_VOICE_MORE = 1, VL_VOICE_NUMERIC = 2, VL_VOICE_FULL = 3 };
enum {
    VL_VOICE_QUANTUM = 256,           /* tokens of one prefill quantum */
    VL_VOICE_PROBED = 8,              /* words at the end of a frame whose attention is looked at */
    VL_VOICE_RECENT = 256,            /* how far the repetition penalty may look back */
    VL_VOICE_PERIODS = 16,            /* the longest loop that is noticed */
    VL_VOICE_PIECE = VL_DETOK_MAX + 8 /* bytes of text that one quantum may add */
};
struct vl_voice {
    struct vl_machine *m;  /* borrowed, engine lifetime */
    struct vl_kv *kv;      /* borrowed from the session or turn */
    struct vl_outbox *out; /* likewise */
    enum vl_voice_state state;

    /* being fed: ids and visual rows are borrowed until PREFILL is left */
    const int32_t *id;
    struct vl_tensor row; /* [n_rows, (1 + n_deepstack) * d_model] */
    uint32_t n, at, slot, row_at;
    uint64_t unit;
    bool speaks;
    struct vl_prune *prune; /* what its last piece decides, borrowed until PREFILL is left; NULL: nothing */

    /* being said */
    struct vl_sampler sampler;
    struct vl_detok detok;
    struct vl_text_filter filter;
    int32_t next; /* sampled, said, not yet in the sequence; -1: none */
    uint32_t n_said, max_said;
    size_t n_text, max_text; /* bytes */
    uint32_t n_recent, n_same[VL_VOICE_PERIODS + 1];
    int32_t recent[2 * VL_VOICE_RECENT];
};

void vl_voice_init(struct vl_voice *v, struct vl_machine *m, struct vl_kv *kv, struct vl_outbox *out,
                   const struct vl_sampling *how, bool one_line);

/* Puts ids into the sequence; each -1 among them is the place of tok's next row (tok NULL: there is none),
 * and each run of them is one view.
 * -> PREFILL. Evicts for room, and ends forks that hold it. VL_VOICE_FULL: there is none, nothing was put. */
int vl_voice_feed(struct vl_voice *v, const int32_t *id, uint32_t n, const struct vl_visual_tokens *tok,
                  uint64_t unit, bool pinned);
/* After feed: at its end begins to speak, at most max_tokens and max_text bytes. */
void vl_voice_speak(struct vl_voice *v, uint32_t max_tokens, size_t max_text);

/* VL_VOICE_MORE: call again. 0: IDLE; v->next is what was said and the sequence still lacks, -1: nothing.
 * VL_VOICE_NUMERIC: logits are not finite; IDLE, and the caller truncates. After an error the caller stops.
 */
int vl_voice_prefill(struct vl_voice *v);
int vl_voice_step(struct vl_voice *v);
/* vl_kv_evict and vl_kv_evict_picture of its sequence, ending forks that hold what is needed. */
int vl_voice_evict(struct vl_voice *v, uint32_t n_wanted, uint32_t *ret_n);
int vl_voice_evict_picture(struct vl_voice *v, uint32_t *ret_n);
void vl_voice_stop(struct vl_voice *v); /* -> IDLE from anywhere */
/* May the next quantum run? Not while its text would not fit. */
bool vl_voice_can_step(struct vl_voice *v);
#endif
