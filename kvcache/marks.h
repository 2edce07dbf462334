/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * What policies share: an answer is made by marking tokens, and these are the marks that all of them make
 * alike: pictures beyond a window of units, words beyond a number of tokens, and whole units from the oldest
 * on when pages ran out. A pinned token is never marked. Lives as long as one pick; engine thread.
 */
#ifndef VL_KVCACHE_MARKS_H
#define VL_KVCACHE_MARKS_H
#include "kvcache/policy.h"

#include <stddef.h>

struct vl_kv_marks {
    const struct vl_kv_token *tok; /* [n] */
    bool *gone;                    /* [n] of the policy's state */
    uint32_t n, n_gone;
};

/* gone: room for n, cleared here. */
void vl_kv_marks_begin(struct vl_kv_marks *m, bool *gone, const struct vl_kv_token *tok, uint32_t n);
void vl_kv_mark(struct vl_kv_marks *m, uint32_t slot); /* unless it is marked, or pinned */
/* How many units have tokens of this kind that are neither pinned nor marked. */
uint32_t vl_kv_marks_units(const struct vl_kv_marks *m, enum vl_kv_kind kind);
/* The oldest of them and its tokens; 0: there is none. */
uint32_t vl_kv_marks_oldest(const struct vl_kv_marks *m, enum vl_kv_kind kind, uint64_t *ret_unit);
/* Marks all that is left of a kind up to and including this unit. */
void vl_kv_mark_until(struct vl_kv_marks *m, enum vl_kv_kind kind, uint64_t unit);

/* Pictures beyond the newest `window` units. */
void vl_kv_mark_window(struct vl_kv_marks *m, uint32_t window);
/* Words beyond text_tokens, a whole unit at a time, oldest first; but not those of a unit from the oldest
 * picture that is left on, nor of the newest unit: a picture without its time is a worse prompt than a text a
 * little too long. */
void vl_kv_mark_text(struct vl_kv_marks *m, uint32_t text_tokens);
/* The same words, until n_wanted tokens of any kind are marked. */
void vl_kv_mark_text_wanted(struct vl_kv_marks *m, uint32_t n_wanted);
/* Until n_wanted are marked, or all: whole units, pictures and then words, oldest first. */
void vl_kv_mark_wanted(struct vl_kv_marks *m, uint32_t n_wanted);

/* The answer of pick. */
int vl_kv_marks_answer(const struct vl_kv_marks *m, uint32_t *ret_slots, uint32_t *ret_n);

/* For init: the value of an option that is a number, from p or its description's default; the name is that of
 * the policy. */
int vl_kv_option(const struct vl_params *p, const char *policy, const struct vl_param_desc *d, uint32_t *ret,
                 struct vl_error *err);
#endif
