/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The scripted worlds. Each is one function from a second to the objects that are there; all else is done
 * once for all of them. The cast of a script is what the seeded world starts with for the same seed, so its
 * objects look as they do there. Trap: the truth of a second depends on the one *shown* before it, which with
 * another order is not the one before it in the script.
 */
#include "pipelines/script.h"

#include "base/clock.h"
#include "base/random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PI           3.14159265358979
#define MOVES        0.05f /* of the picture in a second: slower is no motion that is told */
#define FLICKER_HZ   0.31  /* what a lamp at the mains beats with a camera; no period of whole seconds */
#define CELL_RADIUS  0.055f
#define N_GRID       6
#define FADE_SECONDS 120
#define FADE_TO      0.45

struct scripted {
    const char *name;
    int64_t round; /* seconds until it begins again; 0: it does not */
    bool cuts;     /* each second is a scene of its own */
    bool fades;    /* the light does */
    int32_t n_cast;
    double at, px; /* when the options name none */
    /* Fills n_objects and objects, each with its place now. The cast is in s. */
    void (*state)(const struct vl_script *s, int64_t t, struct vl_world_truth *ret);
};

struct vl_script {
    struct vl_script_options o;
    const struct scripted *ops; /* NULL: the seeded world */
    struct vl_world *world;     /* the seeded one */
    struct vl_world_object cast[VL_WORLD_MAX_OBJECTS];
    int32_t n_cast;
    uint64_t texture_seed;
    struct vl_world_truth now; /* of a scripted world */
};

static uint64_t mix(uint64_t seed, uint64_t n)
{
    uint64_t state = seed + n * UINT64_C(0x9E3779B97F4A7C15);
    return vl_random_u64(&state);
}

/* n objects of the seeded world, as it starts with them; fewer when it found no room. */
static int32_t draw_cast(const struct vl_script *s, uint64_t seed, int32_t n, struct vl_world_object *ret)
{
    struct vl_world_options o = s->o.seeded;
    struct vl_world *world = NULL;
    o.n_start = n;
    o.max_objects = VL_WORLD_MAX_OBJECTS;
    o.held_out = VL_WORLD_HELD_OUT_NEVER;
    int32_t n_got = 0;
    for (int try = 0; try < 8 && n_got < n; try++) {
        o.seed = mix(seed, (uint64_t)try);
        if (vl_world_open(&o, &world) < 0)
            return n_got; /* no memory: an empty scene */
        const struct vl_world_truth *truth = vl_world_truth(world);
        n_got = truth->n_objects;
        memcpy(ret, truth->objects, sizeof(truth->objects));
        world = vl_world_close(world);
    }
    for (int32_t i = 0; i < n_got; i++)
        ret[i].id = i + 1;
    return n_got;
}

/* ---- the scripts ---- */

static void put(struct vl_world_truth *ret, const struct vl_world_object *object, float x, float y)
{
    struct vl_world_object *o = &ret->objects[ret->n_objects++];
    *o = *object;
    o->x = x;
    o->y = y;
}

static void put_as_cast(struct vl_world_truth *ret, const struct vl_script *s, int32_t i)
{
    if (i < s->n_cast)
        put(ret, &s->cast[i], s->cast[i].x, s->cast[i].y);
}

/* The subject goes through all cells of a 6x6 grid, others stand two cells or more away from it and each
 * other. */
static void grid_state(const struct vl_script *s, int64_t t, struct vl_world_truth *ret)
{
    enum { N = 4 };
    struct vl_world_object cast[VL_WORLD_MAX_OBJECTS];
    int cell[N] = {(int)(t % (N_GRID * N_GRID))};
    int32_t n = draw_cast(s, mix(s->o.seeded.seed, (uint64_t)t), N, cast);
    uint64_t rng = mix(s->o.seeded.seed ^ 0x67726964, (uint64_t)t);
    for (int32_t i = 0; i < n; i++) {
        bool free = i == 0;
        for (int try = 0; try < 200 && !free; try++) {
            cell[i] = (int)((rng = mix(rng, 0)) % (N_GRID * N_GRID));
            free = true;
            for (int32_t k = 0; k < i; k++)
                free = free && (abs(cell[i] % N_GRID - cell[k] % N_GRID) > 1 ||
                                abs(cell[i] / N_GRID - cell[k] / N_GRID) > 1);
        }
        if (!free)
            continue;
        cast[i].radius = CELL_RADIUS;
        put(ret, &cast[i], ((float)(cell[i] % N_GRID) + 0.5f) / N_GRID,
            ((float)(cell[i] / N_GRID) + 0.5f) / N_GRID);
    }
}

static void count_state(const struct vl_script *s, int64_t t, struct vl_world_truth *ret)
{
    int32_t n = (int32_t)(t % (VL_WORLD_MAX_OBJECTS + 1));
    ret->n_objects = draw_cast(s, mix(s->o.seeded.seed, (uint64_t)t), n, ret->objects);
}

/* Something is there for one second, among two that stay. */
static void blink_state(const struct vl_script *s, int64_t t, struct vl_world_truth *ret)
{
    int64_t at = (int64_t)s->o.at, every = (int64_t)s->o.every;
    put_as_cast(ret, s, 1);
    put_as_cast(ret, s, 2);
    if ((t == at || (every > 0 && t > at && (t - at) % every == 0)) && s->n_cast) {
        put_as_cast(ret, s, 0);
        if (s->o.px > 0)
            ret->objects[ret->n_objects - 1].radius =
                (float)(s->o.px / 2 / sqrt((double)s->o.width * s->o.height));
    }
}

/* One object creeps to the right by px pixels a second. */
static void drift_state(const struct vl_script *s, int64_t t, struct vl_world_truth *ret)
{
    double x = 0.2 + (double)t * s->o.px / s->o.width;
    if (s->n_cast)
        put(ret, &s->cast[0], (float)fmin(x, 0.9), 0.5f);
    if (s->n_cast > 1)
        put(ret, &s->cast[1], 0.83f, 0.17f);
}

static void still_state(const struct vl_script *s, int64_t t, struct vl_world_truth *ret)
{
    (void)t;
    for (int32_t i = 0; i < s->n_cast; i++)
        put_as_cast(ret, s, i);
}

static void empty_state(const struct vl_script *s, int64_t t, struct vl_world_truth *ret)
{
    (void)s;
    (void)t;
    (void)ret;
}

/* Two come, three seconds apart, and go again; in every other round the other one comes first. The subject is
 * the one that came last. */
static void order_state(const struct vl_script *s, int64_t t, struct vl_world_truth *ret)
{
    int64_t in = t % 16;
    int32_t first = t / 16 % 2 ? 0 : 1, last = 1 - first;
    if (in >= 7 && in < 13)
        put_as_cast(ret, s, last);
    if (in >= 4 && in < 11)
        put_as_cast(ret, s, first);
    put_as_cast(ret, s, 2);
}

/* In each round an object stands, goes through the middle for two seconds, stands, and is not there for one;
 * each round another way, and every fourth faster. */
static void motion_state(const struct vl_script *s, int64_t t, struct vl_world_truth *ret)
{
    static const float speed[] = {0.10f, 0.12f, 0.14f};
    static const float way[] = {-1, -1, -1, 0, 1, 1, 1};
    static const float way_x[] = {-1, 1, 0, 0}, way_y[] = {0, 0, -1, 1}; /* by enum vl_world_direction */
    int64_t round = t / 8, in = t % 8;
    if (s->n_cast && in < 7) {
        float far = way[in] * speed[round / 4 % 3];
        put(ret, &s->cast[0], 0.5f + far * way_x[round % 4], 0.5f + far * way_y[round % 4]);
    }
    if (s->n_cast > 1)
        put(ret, &s->cast[1], 0.15f, 0.2f);
    if (s->n_cast > 2)
        put(ret, &s->cast[2], 0.85f, 0.8f);
}

static const struct scripted scripted[] = {
    {.name = "grid", .round = N_GRID * N_GRID, .cuts = true, .state = grid_state},
    {.name = "count", .round = VL_WORLD_MAX_OBJECTS + 1, .cuts = true, .state = count_state},
    {.name = "blink", .n_cast = 3, .at = 10, .state = blink_state},
    {.name = "drift", .n_cast = 2, .px = 1, .state = drift_state},
    {.name = "fade", .fades = true, .n_cast = 3, .state = still_state},
    {.name = "still", .n_cast = 3, .state = still_state},
    {.name = "empty", .state = empty_state},
    {.name = "order", .round = 32, .n_cast = 3, .state = order_state},
    {.name = "motion", .round = 8, .n_cast = 3, .state = motion_state},
};
enum { N_SCRIPTED = sizeof(scripted) / sizeof(*scripted) };

const char *vl_script_name(size_t i)
{
    return i == 0 ? "seeded" : i <= N_SCRIPTED ? scripted[i - 1].name : NULL;
}

/* ---- what is shown ---- */

/* The second of the script that is shown in this one. */
static int64_t shown(const struct vl_script *s, int64_t second)
{
    int64_t round = s->ops->round, in = round ? second % round : 0;
    if (round == 0 || s->o.order == VL_SCRIPT_FORWARD)
        return second;
    if (s->o.order == VL_SCRIPT_BACKWARD)
        return second - in + round - 1 - in;
    int8_t order[N_GRID * N_GRID]; /* the longest round */
    uint64_t rng = mix(s->o.seeded.seed ^ 0x73687566, (uint64_t)(second / round));
    for (int64_t i = 0; i < round; i++)
        order[i] = (int8_t)i;
    for (int64_t i = round - 1; i > 0; i--) {
        int64_t k = (int64_t)((rng = mix(rng, 0)) % (uint64_t)(i + 1));
        int8_t was = order[i];
        order[i] = order[k];
        order[k] = was;
    }
    return second - in + order[in];
}

static void state_of(const struct vl_script *s, int64_t second, struct vl_world_truth *ret)
{
    *ret = (struct vl_world_truth){.second = second};
    s->ops->state(s, shown(s, second), ret);
    for (int32_t i = 0; i < ret->n_objects; i++) {
        struct vl_world_object *o = &ret->objects[i];
        o->from_x = o->x;
        o->from_y = o->y;
        o->direction = VL_WORLD_STILL;
    }
}

static struct vl_world_object *find(struct vl_world_truth *truth, int32_t id)
{
    for (int32_t i = 0; i < truth->n_objects; i++)
        if (truth->objects[i].id == id)
            return &truth->objects[i];
    return NULL;
}

/* How what is there moved since the second before. */
static void compare(struct vl_world_truth *now, struct vl_world_truth *before)
{
    for (int32_t i = 0; i < now->n_objects; i++) {
        struct vl_world_object *o = &now->objects[i];
        const struct vl_world_object *was = find(before, o->id);
        if (!was)
            continue;
        o->from_x = was->x;
        o->from_y = was->y;
        float dx = o->x - was->x, dy = o->y - was->y;
        if (fmaxf(fabsf(dx), fabsf(dy)) < MOVES)
            continue;
        if (fabsf(dx) > fabsf(dy))
            o->direction = dx < 0 ? VL_WORLD_LEFTWARD : VL_WORLD_RIGHTWARD;
        else
            o->direction = dy < 0 ? VL_WORLD_UPWARD : VL_WORLD_DOWNWARD;
    }
}

static void tell(struct vl_world_truth *now, enum vl_world_event_kind kind, const struct vl_world_object *o)
{
    if (now->event.kind == VL_WORLD_QUIET) /* of several the first: scripts begin one thing a second */
        now->event = (struct vl_world_event){.kind = (int32_t)kind, .object = *o};
}

static void make_truth(struct vl_script *s, int64_t second)
{
    struct vl_world_truth before, earlier;
    state_of(s, second, &s->now);
    if (second == 0 || s->ops->cuts)
        return;
    state_of(s, second - 1, &before);
    if (second > 1) {
        state_of(s, second - 2, &earlier);
        compare(&before, &earlier);
    }
    compare(&s->now, &before);
    for (int32_t i = 0; i < s->now.n_objects; i++) {
        const struct vl_world_object *o = &s->now.objects[i], *was = find(&before, o->id);
        if (!was)
            tell(&s->now, VL_WORLD_APPEARED, o);
        else if (o->direction != VL_WORLD_STILL && o->direction != was->direction)
            tell(&s->now, VL_WORLD_MOVES, o);
    }
    for (int32_t i = 0; i < before.n_objects; i++)
        if (!find(&s->now, before.objects[i].id))
            tell(&s->now, VL_WORLD_GONE, &before.objects[i]);
}

struct vl_script_options vl_script_default_options(uint64_t seed, uint32_t width, uint32_t height)
{
    struct vl_script_options o = {
        .seeded = vl_world_default_options(seed), .width = width, .height = height, .at = -1, .px = -1};
    o.seeded.aspect = (float)width / (float)height;
    return o;
}

static int find_name(struct vl_script *s, const char *name, struct vl_error *err)
{
    char names[256] = "";
    if (!name || !strcmp(name, vl_script_name(0)))
        return 0;
    for (size_t i = 0; i < N_SCRIPTED; i++)
        if (!strcmp(name, scripted[i].name)) {
            s->ops = &scripted[i];
            return 0;
        }
    for (size_t i = 0, used = 0; vl_script_name(i) && used < sizeof(names); i++)
        used += (size_t)snprintf(names + used, sizeof(names) - used, " %s", vl_script_name(i));
    return vl_error_set(err, -EINVAL, "world=%.32s: there are%s", name, names);
}

int vl_script_new(const struct vl_script_options *o, struct vl_script **ret, struct vl_error *err)
{
    vl_auto(vl_script) s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    int r = find_name(s, o->name, err);
    if (r < 0)
        return r;
    s->o = *o;
    s->o.name = NULL;
    r = vl_world_open(&o->seeded, &s->world);
    if (r < 0)
        return vl_error_set(err, r, "the drawn world does not take these options");
    if (s->ops) {
        s->o.at = o->at < 0 ? s->ops->at : o->at;
        s->o.px = o->px < 0 ? s->ops->px : o->px;
        s->n_cast = draw_cast(s, o->seeded.seed, s->ops->n_cast, s->cast);
        s->texture_seed = mix(o->seeded.seed, 0x67726F756E64);
        make_truth(s, 0);
    }
    *ret = vl_steal(s);
    return 0;
}

struct vl_script *vl_script_unref(struct vl_script *s)
{
    if (!s)
        return NULL;
    s->world = vl_world_close(s->world);
    free(s);
    return NULL;
}

void vl_script_seek(struct vl_script *s, int64_t second)
{
    if (s->ops && second > s->now.second)
        make_truth(s, second);
    while (!s->ops && vl_world_truth(s->world)->second < second)
        vl_world_step(s->world);
}

const struct vl_world_truth *vl_script_truth(const struct vl_script *s)
{
    return s->ops ? &s->now : vl_world_truth(s->world);
}

bool vl_script_is_cut(const struct vl_script *s, int64_t second)
{
    return s->ops && s->ops->cuts && second > 0;
}

const struct vl_world_object *vl_script_subject(const struct vl_script *s)
{
    enum { SUBJECT = 1 };
    for (int32_t i = 0; s->ops && i < s->now.n_objects; i++)
        if (s->now.objects[i].id == SUBJECT)
            return &s->now.objects[i];
    return NULL;
}

/* As vl_world_scene_at: what appears or goes does it at half time. */
static void scene_at(const struct vl_script *s, double fraction, struct vl_world_scene *ret)
{
    const struct vl_world_truth *now = &s->now;
    uint64_t ground = s->ops->cuts ? mix(s->texture_seed, (uint64_t)now->second) : s->texture_seed;
    *ret = (struct vl_world_scene){.texture_seed = ground,
                                   .noise_seed =
                                       mix(ground ^ (uint64_t)(fraction * 4096), (uint64_t)now->second),
                                   .noise = s->o.seeded.noise,
                                   .artefacts = s->o.seeded.artefacts};
    for (int32_t i = 0; i < now->n_objects; i++) {
        struct vl_world_object o = now->objects[i];
        if (now->event.kind == VL_WORLD_APPEARED && now->event.object.id == o.id && fraction < 0.5)
            continue;
        vl_world_object_at(&o, fraction, &o.x, &o.y);
        ret->objects[ret->n_objects++] = o;
    }
    if (now->event.kind == VL_WORLD_GONE && fraction < 0.5 && ret->n_objects < VL_WORLD_MAX_OBJECTS)
        ret->objects[ret->n_objects++] = now->event.object;
}

/* What the camera makes of it: the light of that moment, and the noise of a sensor (a sum of four even ones,
 * which is near enough to a normal one). */
static void expose(const struct vl_script *s, int64_t pts_ns, int width, int height, size_t stride,
                   uint8_t *rgb)
{
    double t = (double)pts_ns / 1e9, light = 1 - s->o.flicker * (0.5 - 0.5 * cos(2 * PI * FLICKER_HZ * t));
    if (s->ops && s->ops->fades)
        light *= 1 - (1 - FADE_TO) * fmin(t / FADE_SECONDS, 1);
    if (light == 1 && !(s->o.sigma > 0))
        return;
    uint64_t rng = mix(s->o.seeded.seed ^ 0x73656E736F72, (uint64_t)pts_ns);
    double level = s->o.sigma * sqrt(12.0 / 4) / 65536;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < 3 * width; x++) {
            uint8_t *p = rgb + (size_t)y * stride + (size_t)x;
            double v = *p * light;
            if (s->o.sigma > 0) {
                uint64_t b = rng = mix(rng, 0);
                double sum =
                    (double)((b & 0xFFFF) + (b >> 16 & 0xFFFF) + (b >> 32 & 0xFFFF) + (b >> 48)) - 131070;
                v += sum * level;
            }
            *p = (uint8_t)(v < 0 ? 0 : v > 254.5 ? 255 : v + 0.5);
        }
}

int vl_script_draw(struct vl_script *s, int64_t pts_ns, int width, int height, size_t stride, uint8_t *rgb)
{
    struct vl_world_scene scene;
    double fraction = pts_ns % VL_NSEC_PER_SEC ? (double)(pts_ns % VL_NSEC_PER_SEC) / 1e9 : 1.0;
    vl_script_seek(s, (pts_ns + VL_NSEC_PER_SEC - 1) / VL_NSEC_PER_SEC);
    if (s->ops)
        scene_at(s, fraction, &scene);
    else
        vl_world_scene_at(s->world, fraction, &scene);
    int r = vl_world_draw(&scene, width, height, stride, rgb, NULL);
    if (r == 0)
        expose(s, pts_ns, width, height, stride, rgb);
    return r;
}
