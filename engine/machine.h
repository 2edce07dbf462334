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

/* What the engine thread computes with: backend, model, page pool, arenas. Everything is sized and allocated
 * at load; afterwards a frame or a token allocates nothing. Engine thread only, and its workers. */
struct vl_machine {
    const struct vl_backend_ops *ops;
    void *device;
    struct vl_workers *workers;
    struct vl_arena run_arena, encode_arena;
    struct vl_exec x, encode_x; /* decoder quanta run between layers of the encoder */
    struct vl_model *model;
    const struct vl_model_desc *desc;
    struct vl_kv_geometry geometry; /* of the pool: the model's, with pages of our size */
    struct vl_kv_pool *pool;
    struct vl_encode *encode;
    const struct vl_session *encode_owner; /* whose frame the encoder and its arena hold, or NULL */

    uint32_t quantum;       /* tokens of one prefill quantum */
    uint32_t max_tokens;    /* of one sequence */
    uint32_t max_sink;      /* tokens of a system prompt */
    uint32_t max_frame_ids; /* of a rendered frame, its caption's end included */
    uint32_t fork_tokens;   /* of a question and its reply */
    int64_t (*rel)[3];      /* [desc->frame_tokens] */

    bool (*end_fork)(void *user); /* ends the oldest turn; false: there is none. Set by the scheduler */
    void *user;
};

/* "cpu", "cpu:isa=avx2", NULL: the best. ret_spec points into name. -EINVAL names what there is. */
int vl_machine_find_backend(const char *name, const struct vl_backend_ops **ret, const char **ret_spec,
                            struct vl_error *err);
/* May take seconds. vl_machine_close takes what is half made. */
int vl_machine_open(struct vl_machine *m, const struct vl_engine_opts *o, struct vl_error *err);
void vl_machine_close(struct vl_machine *m);
void vl_machine_get_info(const struct vl_machine *m, struct vl_engine_info *ret);
bool vl_machine_end_fork(struct vl_machine *m);
/* Renders one part into memory of the right size: ret->id is the caller's to free. Allocates. */
int vl_machine_render(const struct vl_machine *m, enum vl_part part, const char *text, struct vl_chunk *ret);
#endif
