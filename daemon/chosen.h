/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_CHOSEN_H
#define VL_DAEMON_CHOSEN_H
#include "base/params.h"
#include "engine/engine.h"
#include "engine/offers.h"

/* A reducer and a policy as the engine takes them, read from their written form, NAME:KEY=VALUE,... Owns
 * what the engine's options borrow. */
enum { VL_CHOSEN_NAME = 65 };
struct vl_chosen {
    char reducer[VL_CHOSEN_NAME], policy[VL_CHOSEN_NAME]; /* empty: not said */
    struct vl_params *reducer_params, *policy_params;
};
/* Either text may be NULL, and a reducer may be "none". window_frames: of the policy, unless its text says
 * its own; 0: not said. -EINVAL: a text that is not of that form. To be done in any case. */
int vl_chosen_read(struct vl_chosen *ret, const char *reducer, const char *policy, uint32_t window_frames,
                   struct vl_error *err);
void vl_chosen_done(struct vl_chosen *c);
/* The window that a policy's text asks for, in units; 0: it says nothing of it. */
uint32_t vl_chosen_window(const char *policy);
/* Into the options, which then live no longer than c. */
void vl_chosen_apply(const struct vl_chosen *c, struct vl_session_opts *o);
/* Of one of them, before there is an engine: its form, name and options. key: how the user calls it. */
int vl_chosen_check(enum vl_offer_kind kind, const char *key, const char *text, struct vl_error *err);
/* Likewise a question's reducer. */
int vl_chosen_check_asked(bool stream, const char *key, const char *text, struct vl_error *err);
/* A reducer that does nothing unless the tokens of a frame are limited. NULL, and what is none: false. */
bool vl_chosen_needs_budget(const char *reducer);
/* A reducer that works for a question alone. */
bool vl_chosen_needs_question(const char *reducer);
#endif
