/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors
 *
 * The drawn world: a seeded scene of coloured shapes that appear, leave, turn
 * another colour and move, with its truth and its pictures. The `test` source,
 * the training and the quality bench all draw with it.
 *
 * Time advances in whole seconds. After vl_world_step() the truth of that second
 * is vl_world_truth(); at most one event a second. Pictures between two seconds
 * are drawn with a fraction: 0 is the second before, 1 is this second, which is
 * all that training sees. Objects glide in between; appearing, leaving and
 * turning happen at half time.
 *
 * libc and libm only, no globals, no threads, no I/O. Same options, same calls:
 * same bytes. Coordinates are 0..1 of the width and of the height, radii are in
 * units of sqrt(width * height), so shapes are round in the real picture.
 */
#ifndef VL_PIPELINES_WORLD_H
#define VL_PIPELINES_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { VL_WORLD_N_SHAPES = 8, VL_WORLD_N_COLOURS = 8, VL_WORLD_N_PLACES = 9, VL_WORLD_MAX_OBJECTS = 5 };

enum vl_world_shape {
    VL_WORLD_CIRCLE,
    VL_WORLD_SQUARE,
    VL_WORLD_TRIANGLE,
    VL_WORLD_STAR,
    VL_WORLD_CROSS,
    VL_WORLD_RING,
    VL_WORLD_DIAMOND,
    VL_WORLD_MOON,
};

enum vl_world_direction {
    VL_WORLD_STILL = -1,
    VL_WORLD_LEFTWARD,
    VL_WORLD_RIGHTWARD,
    VL_WORLD_UPWARD,
    VL_WORLD_DOWNWARD,
};

enum vl_world_event_kind {
    VL_WORLD_QUIET,    /* nothing begins in this second; something may go on moving */
    VL_WORLD_APPEARED, /* an object is there that was not */
    VL_WORLD_GONE,     /* an object left; the event holds its last state */
    VL_WORLD_TURNED,   /* the colour changed to the event's to_colour */
    VL_WORLD_MOVES,    /* the first second of a motion */
};

/* How one object is drawn. Everything but `size` varies the looks without changing the name. */
struct vl_world_look {
    float turn;      /* rotation, radians */
    float shear;     /* slight perspective */
    float stretch;   /* width over height of the outline, about 1 */
    float line;      /* 0..1, thickness of what has one: ring, cross, star, moon, diamond */
    float roundness; /* 0..1 of what corners bear */
    float softness;  /* width of the edge, in units of sqrt(width * height) */
    float outline;   /* width of an outline over the radius, 0 for none */
    float outline_grey;
    float shade;   /* brightness gradient from top to bottom */
    float mirror;  /* 1 or -1 */
    float tint[3]; /* weights of the anchors of a colour name, sum 1 */
    float brightness;
};

struct vl_world_object {
    int32_t id; /* unique in one world */
    int32_t shape;
    int32_t colour;
    int32_t direction;    /* enum vl_world_direction: how it moved in this second */
    float x, y;           /* centre now */
    float from_x, from_y; /* centre one second before */
    float radius;
    struct vl_world_look look;
};

struct vl_world_event {
    int32_t kind;
    int32_t to_colour;             /* VL_WORLD_TURNED */
    struct vl_world_object object; /* as named by a caption: before it turned, now for everything else */
};

struct vl_world_truth {
    int64_t second; /* 0 for the first */
    int32_t n_objects;
    int32_t reserved;
    struct vl_world_object objects[VL_WORLD_MAX_OBJECTS];
    struct vl_world_event event;
};

/* Some (shape, colour, place) triples are kept out of training, to test what it makes of them. */
enum vl_world_held_out {
    VL_WORLD_HELD_OUT_NEVER,  /* no object ever has such a triple: training */
    VL_WORLD_HELD_OUT_FORCED, /* the first object always starts with one */
    VL_WORLD_HELD_OUT_ANY,
};

struct vl_world_options {
    uint64_t seed;
    float aspect;        /* width over height of the pictures, for distances between shapes */
    float event_rate;    /* chance of an event in a second, 0..1 */
    float move_share;    /* of events, share that are motions, 0..1 */
    int32_t n_start;     /* objects in second 0, -1: by seed */
    int32_t max_objects; /* at most VL_WORLD_MAX_OBJECTS */
    int32_t held_out;    /* enum vl_world_held_out */
    float noise;         /* 0: none, 1: as in training */
    float artefacts;     /* 0: none, 1: DCT blocks and 4:2:0 as in training; 0 where a codec follows */
};

struct vl_world;

/* aspect 16:9, event rate 0.35, everything else by seed */
struct vl_world_options vl_world_default_options(uint64_t seed);

/* Returns 0, -EINVAL for options out of range, -ENOMEM. The world stands at second 0. */
int vl_world_open(const struct vl_world_options *options, struct vl_world **ret);
struct vl_world *vl_world_close(struct vl_world *world);

/* Goes on by one second. */
void vl_world_step(struct vl_world *world);

/* Truth of this second and of the one before; valid until the next step or close. */
const struct vl_world_truth *vl_world_truth(const struct vl_world *world);
const struct vl_world_truth *vl_world_truth_before(const struct vl_world *world);

/* Centre of an object of this second's truth at a fraction of the way from the second before. */
void vl_world_object_at(const struct vl_world_object *object, double fraction, float *ret_x, float *ret_y);

/* What to draw besides the objects. */
struct vl_world_scene {
    int32_t n_objects;
    int32_t plain;         /* 1: an even grey picture without noise, whatever else is asked */
    uint64_t texture_seed; /* background: one per world */
    uint64_t noise_seed;   /* one per picture */
    float noise;
    float artefacts;
    struct vl_world_object objects[VL_WORLD_MAX_OBJECTS];
};

/* The picture of this world at a fraction (0..1) of this second. */
void vl_world_scene_at(const struct vl_world *world, double fraction, struct vl_world_scene *ret);

/*
 * Draws RGB24 of any size from 8x8 on. ret_rgb: [height, stride] bytes, stride >= 3 * width.
 * ret_owner, if not NULL: [height, width], index of the object that covers the pixel, 255 for none.
 * Returns 0, -EINVAL for impossible sizes, -ENOMEM.
 */
int vl_world_draw(const struct vl_world_scene *scene, int width, int height, size_t stride, uint8_t *ret_rgb,
                  uint8_t *ret_owner);

/* 3x3 cell of a centre in raster order: 0 top left, 4 middle, 8 bottom right. */
int vl_world_place(float x, float y);

/* Whether a triple is kept out of training. */
bool vl_world_is_held_out(int shape, int colour, int place);

/* "circle", "red", "top left", "left"; NULL out of range */
const char *vl_world_shape_name(int shape);
const char *vl_world_colour_name(int colour);
const char *vl_world_place_name(int place);
const char *vl_world_direction_name(int direction);

#endif
