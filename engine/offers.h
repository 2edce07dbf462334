/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * What may be chosen by name: reducers of visual tokens and policies of the window, for lists and for checks
 * before there is an engine. Static memory; any thread.
 */
#ifndef VL_ENGINE_OFFERS_H
#define VL_ENGINE_OFFERS_H
#include "base/error.h"
#include "base/params.h"

#include <stdbool.h>

enum vl_offer_kind { VL_OFFER_REDUCER, VL_OFFER_POLICY };
/* What a reducer is to be used for. */
enum vl_offer_use { VL_OFFER_ANY, VL_OFFER_ARRIVAL, VL_OFFER_STREAM, VL_OFFER_PICTURES };
enum { VL_OFFER_STAGES = 4 };
struct vl_offer {
    const char *name, *paper;
    const struct vl_param_desc *params;     /* ends with key == NULL */
    const char *stage[VL_OFFER_STAGES + 1]; /* where a reducer works, in order; ends with NULL */
    bool needs_question;                    /* runs for a question alone, never on arrival */
    bool needs_budget;                      /* leaves all tokens alone without one */
};
/* The i-th. -ENOENT: there are no more. */
int vl_offer_get(enum vl_offer_kind kind, size_t i, struct vl_offer *ret);
/* -EINVAL: there is none of that name, it is not for that use, or an option is not one of its own or out of
 * range; err names the nearest there is. use: of reducers; frames that arrive, a question about a stream, or
 * about pictures. */
int vl_offer_check(enum vl_offer_kind kind, const char *name, const struct vl_params *p,
                   enum vl_offer_use use, struct vl_error *err);
#endif
