/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors
 *
 * The dynamics of the drawn world: what is where in which second. The pictures
 * are in world-draw.c. Lives as long as whoever opened it; any one thread.
 *
 * The rules that make every question answerable: (shape, colour) pairs are unique,
 * centres keep off the borders of the 3x3 places, objects keep apart both in the
 * picture and in its squash to a square, and a motion is planned whole when it
 * begins, against everything else that is planned, so nothing is ever blocked.
 */
#include "pipelines/world.h"

#include "base/random.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BORDER_MARGIN    0.026f /* of the width or height, to a line between places */
#define SQUASHED_APART   0.182f /* of the squashed square: more than the diagonal of an 8x8 cell */
#define RADII_APART      0.88f
#define MAX_MOVE_SECONDS 3
#define N_TRIES          40

/* An object with what it is going to do: positions of the seconds to come of its motion. */
struct plan {
    int n_seconds; /* left */
    int direction;
    float speed;
};

struct vl_world {
    struct vl_world_options options;
    uint64_t rng;
    int32_t next_id;
    uint64_t texture_seed;
    struct plan plans[VL_WORLD_MAX_OBJECTS]; /* of now.objects */
    struct vl_world_truth now;
    struct vl_world_truth before;
};

static const char *const shape_names[] = {"circle", "square", "triangle", "star",
                                          "cross",  "ring",   "diamond",  "moon"};
static const char *const colour_names[] = {"red",  "orange", "yellow", "green",
                                           "cyan", "blue",   "purple", "white"};
static const char *const place_names[] = {"top left", "top",         "top right", "left",        "middle",
                                          "right",    "bottom left", "bottom",    "bottom right"};
static const char *const direction_names[] = {"left", "right", "up", "down"};
static const float direction_x[] = {-1, 1, 0, 0};
static const float direction_y[] = {0, 0, -1, 1};

static float random_unit(uint64_t *rng)
{
    return (float)(vl_random_u64(rng) >> 40) * (1.0f / 16777216.0f);
}

static float random_between(uint64_t *rng, float low, float high)
{
    return low + (high - low) * random_unit(rng);
}

static int random_below(uint64_t *rng, int n)
{
    return (int)((vl_random_u64(rng) >> 33) % (uint64_t)n);
}

int vl_world_place(float x, float y)
{
    int column = x < 1.0f / 3 ? 0 : x < 2.0f / 3 ? 1 : 2;
    int row = y < 1.0f / 3 ? 0 : y < 2.0f / 3 ? 1 : 2;
    return row * 3 + column;
}

bool vl_world_is_held_out(int shape, int colour, int place)
{
    /* 7 and 19 are coprime: no (shape, colour) pair loses more than one place; 30 triples of 576 */
    return (shape * 5 + colour * 3 + place * 7) % 19 == 4;
}

const char *vl_world_shape_name(int shape)
{
    return shape >= 0 && shape < VL_WORLD_N_SHAPES ? shape_names[shape] : NULL;
}

const char *vl_world_colour_name(int colour)
{
    return colour >= 0 && colour < VL_WORLD_N_COLOURS ? colour_names[colour] : NULL;
}

const char *vl_world_place_name(int place)
{
    return place >= 0 && place < VL_WORLD_N_PLACES ? place_names[place] : NULL;
}

const char *vl_world_direction_name(int direction)
{
    return direction >= 0 && direction < 4 ? direction_names[direction] : NULL;
}

static bool near_border(float v)
{
    return fabsf(v - 1.0f / 3) < BORDER_MARGIN || fabsf(v - 2.0f / 3) < BORDER_MARGIN;
}

/* Whether the centre may be here, objects aside. */
static bool inside(const struct vl_world *world, float x, float y, float radius)
{
    float root = sqrtf(world->options.aspect);
    float margin_x = 0.85f * radius / root + 0.008f;
    float margin_y = 0.85f * radius * root + 0.008f;
    return x >= margin_x && x <= 1 - margin_x && y >= margin_y && y <= 1 - margin_y && !near_border(x) &&
           !near_border(y);
}

static bool apart(const struct vl_world *world, float x, float y, float radius, float other_x, float other_y,
                  float other_radius)
{
    float root = sqrtf(world->options.aspect);
    float dx = x - other_x, dy = y - other_y;
    float real = hypotf(dx * root, dy / root);
    return hypotf(dx, dy) >= SQUASHED_APART && real >= RADII_APART * (radius + other_radius);
}

/* Where object i will be in `seconds` seconds. */
static void planned(const struct vl_world *world, int i, int seconds, float *ret_x, float *ret_y)
{
    const struct plan *plan = &world->plans[i];
    float n = (float)(seconds < plan->n_seconds ? seconds : plan->n_seconds);
    *ret_x = world->now.objects[i].x + (plan->n_seconds ? direction_x[plan->direction] * plan->speed * n : 0);
    *ret_y = world->now.objects[i].y + (plan->n_seconds ? direction_y[plan->direction] * plan->speed * n : 0);
}

/* Whether (x, y) stays apart from everything but `self`, `seconds` from now, and at half time before. */
static bool free_at(const struct vl_world *world, int self, float x, float y, float radius, int seconds)
{
    for (int i = 0; i < world->now.n_objects; i++) {
        float other_x, other_y;
        if (i == self)
            continue;
        planned(world, i, seconds, &other_x, &other_y);
        if (!apart(world, x, y, radius, other_x, other_y, world->now.objects[i].radius))
            return false;
    }
    return true;
}

static bool pair_taken(const struct vl_world *world, int shape, int colour)
{
    for (int i = 0; i < world->now.n_objects; i++)
        if (world->now.objects[i].shape == shape && world->now.objects[i].colour == colour)
            return true;
    return false;
}

static bool allowed(const struct vl_world *world, int shape, int colour, float x, float y)
{
    return world->options.held_out != VL_WORLD_HELD_OUT_NEVER ||
           !vl_world_is_held_out(shape, colour, vl_world_place(x, y));
}

static struct vl_world_look random_look(uint64_t *rng, int shape)
{
    struct vl_world_look look = {0};
    float sum = 0;
    bool free_turn = shape == VL_WORLD_CIRCLE || shape == VL_WORLD_RING;
    look.turn = free_turn ? random_between(rng, -3, 3) : random_between(rng, -0.24f, 0.24f);
    if (shape == VL_WORLD_MOON || shape == VL_WORLD_STAR)
        look.turn *= 1.6f;
    look.shear = random_between(rng, -0.1f, 0.1f);
    look.stretch = random_between(rng, 0.93f, 1.07f);
    look.line = random_unit(rng);
    look.roundness = random_unit(rng) < 0.4f ? 0 : random_unit(rng);
    look.softness = 0.004f + 0.012f * random_unit(rng) * random_unit(rng);
    if (random_unit(rng) < 0.22f && shape != VL_WORLD_MOON) { /* a line would fill its bay */
        look.outline = random_between(rng, 0.08f, 0.2f);
        look.outline_grey =
            random_unit(rng) < 0.7f ? random_between(rng, 0, 0.2f) : random_between(rng, 0.8f, 1);
    }
    look.shade = random_unit(rng) < 0.5f ? 0 : random_between(rng, -0.14f, 0.14f);
    look.mirror = random_unit(rng) < 0.5f ? 1 : -1;
    for (int i = 0; i < 3; i++) {
        look.tint[i] = -logf(1 - 0.999f * random_unit(rng));
        sum += look.tint[i];
    }
    for (int i = 0; i < 3; i++)
        look.tint[i] = sum > 0 ? look.tint[i] / sum : 1.0f / 3;
    look.brightness = random_between(rng, 0.86f, 1.04f);
    return look;
}

/* Radii from a tenth to a third of the picture across, small ones oftener. */
static float random_radius(uint64_t *rng)
{
    return 0.054f * powf(0.162f / 0.054f, random_unit(rng));
}

/* Adds one object at a free place; false if there was none. */
static bool add_object(struct vl_world *world, bool force_held_out)
{
    struct vl_world_object object = {.direction = VL_WORLD_STILL};
    for (int try = 0; try < N_TRIES * (force_held_out ? 50 : 1); try++) {
        bool free = true;
        object.radius = random_radius(&world->rng);
        object.x = random_unit(&world->rng);
        object.y = random_unit(&world->rng);
        object.shape = random_below(&world->rng, VL_WORLD_N_SHAPES);
        object.colour = random_below(&world->rng, VL_WORLD_N_COLOURS);
        if (!inside(world, object.x, object.y, object.radius) ||
            pair_taken(world, object.shape, object.colour) ||
            !allowed(world, object.shape, object.colour, object.x, object.y))
            continue;
        if (force_held_out &&
            !vl_world_is_held_out(object.shape, object.colour, vl_world_place(object.x, object.y)))
            continue;
        for (int s = 0; s <= MAX_MOVE_SECONDS && free; s++)
            free = free_at(world, -1, object.x, object.y, object.radius, s);
        if (!free)
            continue;
        object.id = world->next_id++;
        object.from_x = object.x;
        object.from_y = object.y;
        object.look = random_look(&world->rng, object.shape);
        world->plans[world->now.n_objects] = (struct plan){0};
        world->now.objects[world->now.n_objects++] = object;
        return true;
    }
    return false;
}

/* Each of these tries to make one event begin in this second; false: it could not. */

static bool begin_appear(struct vl_world *world)
{
    if (world->now.n_objects >= world->options.max_objects || !add_object(world, false))
        return false;
    world->now.event.kind = VL_WORLD_APPEARED;
    world->now.event.object = world->now.objects[world->now.n_objects - 1];
    return true;
}

static bool begin_leave(struct vl_world *world)
{
    int n = world->now.n_objects;
    int i;
    if (!n)
        return false;
    i = random_below(&world->rng, n);
    if (world->plans[i].n_seconds || world->now.objects[i].direction != VL_WORLD_STILL)
        return false;
    world->now.event.kind = VL_WORLD_GONE;
    world->now.event.object = world->now.objects[i];
    memmove(&world->now.objects[i], &world->now.objects[i + 1],
            (size_t)(n - i - 1) * sizeof(world->now.objects[0]));
    memmove(&world->plans[i], &world->plans[i + 1], (size_t)(n - i - 1) * sizeof(world->plans[0]));
    world->now.n_objects--;
    return true;
}

/* A still object, or -1. One that moved a second ago is not: going on and beginning anew would look alike. */
static int random_still(struct vl_world *world)
{
    int i = world->now.n_objects ? random_below(&world->rng, world->now.n_objects) : -1;
    if (i < 0 || world->plans[i].n_seconds || world->now.objects[i].direction != VL_WORLD_STILL)
        return -1;
    for (int k = 0; k < world->before.n_objects; k++)
        if (world->before.objects[k].id == world->now.objects[i].id &&
            world->before.objects[k].direction != VL_WORLD_STILL)
            return -1;
    return i;
}

static bool begin_turn(struct vl_world *world)
{
    int i = random_still(world);
    int colour = random_below(&world->rng, VL_WORLD_N_COLOURS);
    struct vl_world_object *object;
    if (i < 0)
        return false;
    object = &world->now.objects[i];
    if (pair_taken(world, object->shape, colour) ||
        !allowed(world, object->shape, colour, object->x, object->y))
        return false;
    world->now.event.kind = VL_WORLD_TURNED;
    world->now.event.object = *object;
    world->now.event.to_colour = colour;
    object->colour = colour;
    return true;
}

static void advance(struct vl_world_object *object, const struct plan *plan)
{
    object->direction = plan->direction;
    object->x += direction_x[plan->direction] * plan->speed;
    object->y += direction_y[plan->direction] * plan->speed;
}

static bool begin_move(struct vl_world *world)
{
    int i = random_still(world);
    struct plan plan = {.n_seconds = 1 + random_below(&world->rng, MAX_MOVE_SECONDS),
                        .direction = random_below(&world->rng, 4),
                        .speed = random_between(&world->rng, 0.075f, 0.14f)};
    struct vl_world_object *object;
    if (i < 0)
        return false;
    object = &world->now.objects[i];
    for (int s = 1; s <= plan.n_seconds; s++) {
        float x = object->x + direction_x[plan.direction] * plan.speed * (float)s;
        float y = object->y + direction_y[plan.direction] * plan.speed * (float)s;
        /* others have already advanced in this second: their plan is one second ahead */
        if (!inside(world, x, y, object->radius) || !free_at(world, i, x, y, object->radius, s - 1) ||
            !free_at(world, i, x, y, object->radius, s) ||
            !allowed(world, object->shape, object->colour, x, y))
            return false;
    }
    /* where it stops it stays, while others are still under way */
    for (int s = plan.n_seconds; s < MAX_MOVE_SECONDS; s++) {
        float x = object->x + direction_x[plan.direction] * plan.speed * (float)plan.n_seconds;
        float y = object->y + direction_y[plan.direction] * plan.speed * (float)plan.n_seconds;
        if (!free_at(world, i, x, y, object->radius, s))
            return false;
    }
    advance(object, &plan);
    plan.n_seconds--;
    world->plans[i] = plan;
    world->now.event.kind = VL_WORLD_MOVES;
    world->now.event.object = *object;
    return true;
}

static void begin_something(struct vl_world *world)
{
    float rest = 1 - world->options.move_share;
    for (int try = 0; try < 8; try++) {
        float u = random_unit(&world->rng);
        bool begun;
        if (u < world->options.move_share)
            begun = begin_move(world) || begin_move(world) || begin_move(world) || begin_move(world);
        else if (u < world->options.move_share + rest * 0.37f)
            begun = begin_appear(world);
        else if (u < world->options.move_share + rest * 0.68f)
            begun = begin_leave(world);
        else
            begun = begin_turn(world);
        if (begun)
            return;
    }
}

struct vl_world_options vl_world_default_options(uint64_t seed)
{
    return (struct vl_world_options){
        .seed = seed,
        .aspect = 16.0f / 9,
        .event_rate = 0.35f,
        .move_share = 0.4f,
        .n_start = -1,
        .max_objects = VL_WORLD_MAX_OBJECTS,
        .held_out = VL_WORLD_HELD_OUT_NEVER,
        .noise = 1,
        .artefacts = 1,
    };
}

int vl_world_open(const struct vl_world_options *options, struct vl_world **ret)
{
    struct vl_world *world;
    int n;
    if (!(options->aspect > 0.2f && options->aspect < 5) ||
        !(options->event_rate >= 0 && options->event_rate <= 1) ||
        !(options->move_share >= 0 && options->move_share <= 1) || options->max_objects < 0 ||
        options->max_objects > VL_WORLD_MAX_OBJECTS || options->n_start > options->max_objects)
        return -EINVAL;
    world = calloc(1, sizeof(*world));
    if (!world)
        return -ENOMEM;
    world->options = *options;
    world->rng = options->seed ^ 0x766C6D6420776F72ULL;
    world->texture_seed = vl_random_u64(&world->rng);
    world->next_id = 1;
    n = options->n_start >= 0 ? options->n_start : random_below(&world->rng, options->max_objects + 1);
    for (int i = 0; i < n; i++)
        (void)add_object(world, i == 0 && options->held_out == VL_WORLD_HELD_OUT_FORCED); /* may be full */
    world->before = world->now;
    *ret = world;
    return 0;
}

struct vl_world *vl_world_close(struct vl_world *world)
{
    free(world);
    return NULL;
}

void vl_world_step(struct vl_world *world)
{
    world->before = world->now;
    world->now.second++;
    world->now.event = (struct vl_world_event){0};
    for (int i = 0; i < world->now.n_objects; i++) {
        struct vl_world_object *object = &world->now.objects[i];
        object->from_x = object->x;
        object->from_y = object->y;
        object->direction = VL_WORLD_STILL;
        if (world->plans[i].n_seconds) {
            advance(object, &world->plans[i]);
            world->plans[i].n_seconds--;
        }
    }
    if (random_unit(&world->rng) < world->options.event_rate)
        begin_something(world);
}

const struct vl_world_truth *vl_world_truth(const struct vl_world *world)
{
    return &world->now;
}

const struct vl_world_truth *vl_world_truth_before(const struct vl_world *world)
{
    return &world->before;
}

void vl_world_object_at(const struct vl_world_object *object, double fraction, float *ret_x, float *ret_y)
{
    float f = (float)(fraction < 0 ? 0 : fraction > 1 ? 1 : fraction);
    *ret_x = object->from_x + (object->x - object->from_x) * f;
    *ret_y = object->from_y + (object->y - object->from_y) * f;
}

void vl_world_scene_at(const struct vl_world *world, double fraction, struct vl_world_scene *ret)
{
    uint64_t rng = world->texture_seed ^ ((uint64_t)world->now.second * 0xD1B54A32D192ED03ULL) ^
                   (uint64_t)(fraction * 4096);
    int gone = -1;
    *ret = (struct vl_world_scene){.texture_seed = world->texture_seed,
                                   .noise_seed = vl_random_u64(&rng),
                                   .noise = world->options.noise,
                                   .artefacts = world->options.artefacts};
    for (int i = 0; i < world->now.n_objects; i++) {
        struct vl_world_object object = world->now.objects[i];
        bool event = world->now.event.kind != VL_WORLD_QUIET && world->now.event.object.id == object.id;
        if (event && world->now.event.kind == VL_WORLD_APPEARED && fraction < 0.5)
            continue;
        if (event && world->now.event.kind == VL_WORLD_TURNED && fraction < 0.5)
            object.colour = world->now.event.object.colour;
        vl_world_object_at(&object, fraction, &object.x, &object.y);
        ret->objects[ret->n_objects++] = object;
    }
    if (world->now.event.kind == VL_WORLD_GONE && fraction < 0.5)
        gone = ret->n_objects;
    if (gone >= 0 && gone < VL_WORLD_MAX_OBJECTS) {
        ret->objects[gone] = world->now.event.object;
        ret->n_objects++;
    }
}
