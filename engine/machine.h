/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_ENGINE_MACHINE_H
#define VL_ENGINE_MACHINE_H
#include "base/workers.h"
#include "engine/engine.h"
#include "kernels/backend.h"
#include "kvcache/kv.h"
#include "model/model.h"

struct vl_session;
struct vl_turn;

/* What the engine thread computes with: backend, model, page pool, arenas. Everything is sized and allocated
 * at load; afterwards a frame or a token allocates nothing. Engine thread only, and its workers. */
struct vl_machine {
    const struct vl_backend_ops *ops;
    void *device;
    struct vl_workers *workers;
    struct vl_arena run_arena, encode_arena, still_arena;
    struct vl_exec x, encode_x, still_x; /* decoder quanta run between layers of the encoders */
    struct vl_model *model;
    const struct vl_model_desc *desc;
    struct vl_kv_geometry geometry; /* of the pool: the model's, with pages of our size */
    struct vl_kv_pool *pool;
    struct vl_encode *encode;
    const struct vl_session *encode_owner; /* whose frame the encoder and its arena hold, or NULL */
    /* Pictures of questions have an encode of their own, so that no stream waits for all their views. */
    struct vl_encode *still;
    const struct vl_turn *still_owner; /* whose picture it holds, or NULL */

    uint32_t n_ctx;         /* the model's, or what was asked for when that is less */
    uint32_t quantum;       /* tokens of one prefill quantum */
    uint32_t max_tokens;    /* of one sequence */
    uint32_t max_sink;      /* tokens of a system prompt */
    uint32_t max_frame_ids; /* of a rendered frame, its caption's end included */
    uint32_t fork_tokens;   /* of a question and its reply */
    int64_t (*rel)[3];      /* [desc->frame_tokens] */
    uint16_t (*place)[2];   /* likewise */
    float *mass;            /* [n_kv_heads, max_tokens] */

    /* Questions without a stream have sequences of their own, for which a share of the pool is meant. */
    uint32_t own_tokens; /* of one: its pictures, words and reply */
    size_t own_bytes, own_used;
    size_t pool_bytes, look_bytes; /* look_bytes: of all streams, each of which has its own */
    struct vl_budget *budget;      /* what was taken from it, given back by close; NULL: nothing */
    size_t budget_bytes;

    bool (*end_fork)(void *user); /* ends the oldest turn; false: there is none. Set by the scheduler */
    void *user;
};

/* "cpu", "cpu:isa=avx2", NULL: the best. ret_spec points into name. -EINVAL names what there is. */
int vl_machine_find_backend(const char *name, const struct vl_backend_ops **ret, const char **ret_spec,
                            struct vl_error *err);
/* The defaults of what is 0. */
void vl_machine_fill_opts(struct vl_engine_opts *o);
/* The first half of open: backend, workers, and the model measured. Takes no memory for it. */
struct vl_machine_sizes {
    size_t run, encode, still;  /* arenas */
    size_t session, fork, pool; /* of the cache: a stream's window, a question about it, all */
    size_t looks;               /* of all streams: what the encoder compares */
    size_t total;               /* and the weights: what max_bytes is compared with */
};
int vl_machine_open_model(struct vl_machine *m, const struct vl_engine_opts *o, const struct vl_notes *notes,
                          struct vl_machine_sizes *ret, struct vl_error *err);
/* Checks the files, measures the model and takes all memory but that of its weights: -EDQUOT when they
 * together exceed max_bytes or what is left of the budget. What is told about the files goes to notes, or
 * NULL. vl_machine_close takes what is half made. */
int vl_machine_open(struct vl_machine *m, const struct vl_engine_opts *o, const struct vl_notes *notes,
                    struct vl_error *err);
/* Reads the weights: may take seconds. */
int vl_machine_load(struct vl_machine *m, const struct vl_load_watch *watch, struct vl_error *err);
void vl_machine_close(struct vl_machine *m);
void vl_machine_get_info(const struct vl_machine *m, struct vl_engine_info *ret);
/* Bytes of pool that a sequence of its own takes for that many views and other tokens. */
size_t vl_machine_own_bytes(const struct vl_machine *m, uint32_t n_text, uint32_t n_views);
bool vl_machine_end_fork(struct vl_machine *m);
/* Renders one part into memory of the right size: ret->id is the caller's to free. Allocates. */
int vl_machine_render(const struct vl_machine *m, enum vl_part part, const char *text, struct vl_chunk *ret);
/* The same for a question without a stream. */
int vl_machine_render_ask(const struct vl_machine *m, const struct vl_unit *still, uint32_t n_stills,
                          const char *text, struct vl_chunk *ret);
#endif
