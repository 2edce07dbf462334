/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * What the test source draws, by name: the seeded world of pipelines/world.h, or a scripted one, made to ask
 * one thing of whoever watches it. Either has a truth for each whole second, so what is said about it can be
 * judged, and light and sensor of a camera that make it worse. Same options: same bytes.
 *
 * A scripted world says where its objects are in a second; what began in that second is found by comparing it
 * with the one shown before. So it can be shown backwards, or in another order, and its truth is still true.
 * One owner, one thread.
 */
#ifndef VL_PIPELINES_SCRIPT_H
#define VL_PIPELINES_SCRIPT_H
#include "base/cleanup.h"
#include "base/error.h"
#include "pipelines/world.h"

enum vl_script_order {
    VL_SCRIPT_FORWARD,
    VL_SCRIPT_BACKWARD, /* each round of the script from its last second to its first */
    VL_SCRIPT_SHUFFLED  /* the seconds of each round in another order, by the seed */
};

struct vl_script_options {
    const char *name; /* borrowed for new; NULL or "seeded": the seeded world */
    struct vl_world_options
        seeded;             /* all of it for the seeded world; others take seed, aspect, noise, artefacts */
    uint32_t width, height; /* what px is measured in */
    int32_t order;          /* enum vl_script_order, of scripted worlds */
    double at, every;       /* second of what happens once, and of its repetitions; every 0: none */
    double px;              /* of what is small or slow; 0: the script's own */
    double flicker;         /* of the lamp: its light varies from 1 - flicker to 1 */
    double sigma;           /* of the sensor's noise, of 255, besides that of the world */
};
/* Everything at its default: the seeded world of that seed and size. */
struct vl_script_options vl_script_default_options(uint64_t seed, uint32_t width, uint32_t height);

/* "seeded" for 0, then the scripted ones; NULL behind the last. */
const char *vl_script_name(size_t i);

struct vl_script;
/* Stands at second 0. -EINVAL names what there is. */
int vl_script_new(const struct vl_script_options *o, struct vl_script **ret, struct vl_error *err);
struct vl_script *vl_script_unref(struct vl_script *s);
VL_DEFINE_AUTO(vl_script)

/* Goes on to that second; one that has passed is not gone back to. */
void vl_script_seek(struct vl_script *s, int64_t second);
/* Of the second it stands at; valid until the next seek, draw or close. */
const struct vl_world_truth *vl_script_truth(const struct vl_script *s);
/* Whether that second has nothing to do with the one before: a cut. */
bool vl_script_is_cut(const struct vl_script *s, int64_t second);
/* The object that the script is about; NULL: it is about none, or that one is not there in this second. */
const struct vl_world_object *vl_script_subject(const struct vl_script *s);

/* The picture of media time pts, whose second it seeks. rgb: [height, stride], as vl_world_draw takes it. */
int vl_script_draw(struct vl_script *s, int64_t pts_ns, int width, int height, size_t stride, uint8_t *rgb);
#endif
