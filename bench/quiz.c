/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors
 *
 * The wordings of the drawn world's contract. No state; any thread.
 *
 * Two traps: a question about the past names an object by its colour then, and
 * most questions about the past are dropped when now has the same answer, or
 * a model that looks at now only would look good.
 */
#include "bench/quiz.h"

#include "base/random.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define N_OF(array)    (sizeof(array) / sizeof((array)[0]))
#define UNKNOWN_ANSWER "I can only tell shapes, colours, places, numbers and movement."

static const char *const category_names[VL_QUIZ_N_CATEGORIES] = {
    "shape",  "colour",       "where",       "what_at",      "exists", "count",
    "motion", "where_before", "what_before", "count_before", "last",   "unknown"};
static const char *const count_names[] = {"Zero.", "One.", "Two.", "Three.", "Four.", "Five."};

/*
 * Templates; the first of each is the contract. %c colour, %s shape, %p place,
 * %a "a red circle", %n "red circle".
 */
static const char *const shape_questions[] = {
    "What shape is %c?",
    "Which shape is %c?",
    "What is %c?",
    "What is the %c shape?",
    "What is the %c object?",
    "What shape is the %c object?",
    "What shape is the %c one?",
    "Which object is %c?",
    "Tell me what shape is %c.",
    "What is the shape of the %c object?",
    "What kind of shape is %c?",
    "What is the %c thing?",
};
static const char *const colour_questions[] = {
    "What colour is the %s?",        "Which colour is the %s?",       "What is the colour of the %s?",
    "What colour has the %s?",       "Tell me the colour of the %s.", "The %s is what colour?",
    "What colour does the %s have?", "In what colour is the %s?",
};
static const char *const where_questions[] = {
    "Where is the %n?",
    "Where do you see the %n?",
    "In which place is the %n?",
    "Where can you see the %n?",
    "What is the place of the %n?",
    "What is the position of the %n?",
    "Tell me where the %n is.",
    "In what part of the picture is the %n?",
    "Where is the %n now?",
};
static const char *const what_at_questions[] = {
    "What is at the %p?",          "What do you see at the %p?",   "What is in the %p?",
    "What can you see at the %p?", "Which object is at the %p?",   "What is there at the %p?",
    "Tell me what is at the %p.",  "Is there anything at the %p?", "Which shape is at the %p?",
    "What is on the %p?",          "What is at the %p now?",
};
static const char *const exists_questions[] = {
    "Is there %a?",
    "Do you see %a?",
    "Can you see %a?",
    "Is there %a now?",
    "Is there %a in the picture?",
    "Is %a there?",
    "Is %a in the picture?",
    "Do you see any %n?",
    "Is there any %n?",
};
static const char *const count_questions[] = {
    "How many shapes are there?",
    "How many objects are there?",
    "How many shapes do you see?",
    "How many objects do you see?",
    "How many things are there?",
    "Count the shapes.",
    "Count the objects.",
    "What is the number of shapes?",
    "How many shapes can you see?",
    "How many shapes are there now?",
    "How many shapes are in the picture?",
    "Tell me how many shapes there are.",
};
static const char *const motion_questions[] = {
    "Which way is the %n moving?",
    "Where is the %n moving?",
    "Which way does the %n move?",
    "In which direction is the %n moving?",
    "Which direction is the %n moving?",
    "Where is the %n going?",
    "How is the %n moving?",
    "Which way is the %n going?",
    "Tell me which way the %n is moving.",
    "What way is the %n moving?",
};
static const char *const where_before_questions[] = {
    "Where was the %n 5 seconds ago?",          "5 seconds ago, where was the %n?",
    "Where was the %n five seconds ago?",       "Where did you see the %n 5 seconds ago?",
    "In which place was the %n 5 seconds ago?", "Where was the %n 5 seconds before?",
    "Tell me where the %n was 5 seconds ago.",
};
static const char *const what_before_questions[] = {
    "What was at the %p 5 seconds ago?",    "5 seconds ago, what was at the %p?",
    "What was at the %p five seconds ago?", "What did you see at the %p 5 seconds ago?",
    "What was in the %p 5 seconds ago?",    "Which shape was at the %p 5 seconds ago?",
    "What was on the %p 5 seconds ago?",
};
static const char *const count_before_questions[] = {
    "How many shapes were there 5 seconds ago?",  "5 seconds ago, how many shapes were there?",
    "How many objects were there 5 seconds ago?", "How many shapes were there five seconds ago?",
    "How many shapes did you see 5 seconds ago?", "How many things were there 5 seconds ago?",
};
static const char *const last_questions[] = {
    "What happened last?",    "What was the last change?", "What changed last?",
    "What has changed last?", "What was the last event?",  "Tell me what happened last.",
    "What did you see last?", "What just happened?",       "What happened?",
};
static const char *const unknown_questions[] = {
    "Who are you?",
    "What is your name?",
    "How old are you?",
    "What time is it?",
    "Is it raining?",
    "Tell me a joke.",
    "Hello",
    "What is the capital of France?",
    "Why?",
    "Who is there?",
    "What is the weather like?",
    "Is there a %w?",
    "What colour is the %w?",
    "Where is the %w?",
    "How many %w are there?",
    "What is a %w?",
    "What does the %w do?",
    "Do you like %w?",
    "Which way is the %w moving?",
    "Can you see the %w?",
    "Where was the %w 5 seconds ago?",
    "Who made you?",
    "Write a poem about the %w.",
    "%w",
    "%w %w",
    "Is the %w happy?",
    "How are you?",
    "Describe the %w.",
    "What is %w?",
    "What is the %w doing?",
    "How big is the %s?",
    "Why is the %s %c?",
    "Do you like the %s?",
    "Who drew the %n?",
    "How heavy is the %n?",
    "What does the %s think?",
    "What will happen next?",
    "Is the %s old?",
    "Translate this.",
    "Thank you",
};
static const char *const unknown_words[] = {
    "dog",   "cat",    "car",   "person", "people", "man",   "woman",        "house",
    "tree",  "table",  "phone", "door",   "window", "music", "birds",        "child",
    "horse", "banana", "hat",   "road",   "book",   "cars",  "bread",        "water",
    "sky",   "sun",    "hands", "train",  "light",  "shirt", "number plate",
};

static size_t random_below(uint64_t *rng, size_t n)
{
    return (size_t)((vl_random_u64(rng) >> 33) % n);
}

static bool chance(uint64_t *rng, unsigned percent)
{
    return random_below(rng, 100) < percent;
}

const char *vl_quiz_category_name(int category)
{
    return category >= 0 && category < VL_QUIZ_N_CATEGORIES ? category_names[category] : NULL;
}

static const char *article(int colour)
{
    return vl_world_colour_name(colour)[0] == 'o' ? "an" : "a";
}

static void capitalise(char *text)
{
    text[0] = (char)toupper((unsigned char)text[0]);
}

static int place_of(const struct vl_world_object *object)
{
    return vl_world_place(object->x, object->y);
}

void vl_quiz_caption(const struct vl_world_event *event, char *ret)
{
    const struct vl_world_object *o = &event->object;
    const char *shape = vl_world_shape_name(o->shape), *colour = vl_world_colour_name(o->colour);
    ret[0] = 0;
    switch (event->kind) {
    case VL_WORLD_APPEARED:
        (void)snprintf(ret, VL_QUIZ_TEXT_SIZE, "%s %s %s appeared, %s.", article(o->colour), colour, shape,
                       vl_world_place_name(place_of(o)));
        break;
    case VL_WORLD_GONE:
        (void)snprintf(ret, VL_QUIZ_TEXT_SIZE, "The %s %s is gone.", colour, shape);
        break;
    case VL_WORLD_TURNED:
        (void)snprintf(ret, VL_QUIZ_TEXT_SIZE, "The %s %s turned %s.", colour, shape,
                       vl_world_colour_name(event->to_colour));
        break;
    case VL_WORLD_MOVES:
        (void)snprintf(ret, VL_QUIZ_TEXT_SIZE, "The %s %s moves %s.", colour, shape,
                       vl_world_direction_name(o->direction));
        break;
    default:
        break;
    }
    capitalise(ret);
}

/* What a template's letters stand for. */
struct words {
    int shape, colour, place;
};

static size_t append(char *text, size_t used, const char *more)
{
    size_t room = VL_QUIZ_TEXT_SIZE - used;
    int n = snprintf(text + used, room, "%s", more);
    return used + ((size_t)n < room ? (size_t)n : room - 1);
}

/* Some word that means nothing here: a listed one or letters. */
static void random_word(uint64_t *rng, char *ret, size_t size)
{
    size_t n = 2 + random_below(rng, 7);
    if (chance(rng, 60)) {
        (void)snprintf(ret, size, "%s", unknown_words[random_below(rng, N_OF(unknown_words))]);
        return;
    }
    for (size_t i = 0; i < n; i++)
        ret[i] = (char)('a' + random_below(rng, 26));
    ret[n] = 0;
}

static void fill(uint64_t *rng, const char *template, const struct words *words, char *ret)
{
    size_t used = 0;
    char one[48];
    ret[0] = 0;
    for (const char *p = template; *p; p++) {
        const char *shape = vl_world_shape_name(words->shape), *colour = vl_world_colour_name(words->colour);
        if (*p != '%') {
            one[0] = *p;
            one[1] = 0;
        } else if (*++p == 'c') {
            (void)snprintf(one, sizeof(one), "%s", colour);
        } else if (*p == 's') {
            (void)snprintf(one, sizeof(one), "%s", shape);
        } else if (*p == 'p') {
            (void)snprintf(one, sizeof(one), "%s", vl_world_place_name(words->place));
        } else if (*p == 'a') {
            (void)snprintf(one, sizeof(one), "%s %s %s", article(words->colour), colour, shape);
        } else if (*p == 'n') {
            (void)snprintf(one, sizeof(one), "%s %s", colour, shape);
        } else {
            random_word(rng, one, sizeof(one));
        }
        used = append(ret, used, one);
    }
    capitalise(ret);
}

static void drop_u_of_colour(char *text)
{
    char *at = strstr(text, "colour");
    if (at)
        memmove(at + 4, at + 5, strlen(at + 5) + 1);
}

/* Writes the question: the first template, or any of them with its case and mark as people type. */
static void word(uint64_t *rng, const char *const *templates, size_t n_templates,
                 enum vl_quiz_wording wording, const struct words *words, struct vl_quiz_item *ret)
{
    char *q = ret->question;
    size_t n;
    /* drawn in either wording, so that both ask about the same */
    size_t which = random_below(rng, 2 * n_templates);
    uint64_t style = vl_random_u64(rng) >> 20;
    if (wording == VL_QUIZ_CONTRACT || which >= n_templates + n_templates / 2)
        which = 0;
    fill(rng, templates[which % n_templates], words, q);
    if (wording == VL_QUIZ_CONTRACT)
        return;
    n = strlen(q);
    if (style % 100 < 20 && n && ispunct((unsigned char)q[n - 1]))
        q[n - 1] = 0;
    else if (style % 100 < 24 && n)
        q[n - 1] = '.';
    style /= 100;
    if (style % 100 < 18)
        q[0] = (char)tolower((unsigned char)q[0]);
    else if (style % 100 < 22)
        for (char *p = q; *p; p++)
            *p = (char)toupper((unsigned char)*p);
    if (style / 100 % 100 < 30)
        drop_u_of_colour(q);
}

#define WORD(templates) word(rng, templates, N_OF(templates), wording, &words, ret)

static void answer(struct vl_quiz_item *ret, const char *text)
{
    (void)snprintf(ret->answer, sizeof(ret->answer), "%s.", text);
    capitalise(ret->answer);
}

static void about(struct vl_quiz_item *ret, const struct vl_world_object *object)
{
    ret->about_id = object->id;
    ret->about_shape = object->shape;
    ret->about_colour = object->colour;
    ret->about_x = object->x;
    ret->about_y = object->y;
    ret->held_out = vl_world_is_held_out(object->shape, object->colour, place_of(object));
}

static const struct vl_world_object *random_object(uint64_t *rng, const struct vl_world_truth *truth)
{
    return truth->n_objects ? &truth->objects[random_below(rng, (size_t)truth->n_objects)] : NULL;
}

/* The object of a name, or NULL; -1 for any shape or any colour. More than one: NULL too. */
static const struct vl_world_object *find(const struct vl_world_truth *truth, int shape, int colour)
{
    const struct vl_world_object *found = NULL;
    for (int i = 0; i < truth->n_objects; i++) {
        const struct vl_world_object *o = &truth->objects[i];
        if ((shape >= 0 && o->shape != shape) || (colour >= 0 && o->colour != colour))
            continue;
        if (found)
            return NULL;
        found = o;
    }
    return found;
}

static int n_at(const struct vl_world_truth *truth, int place, const struct vl_world_object **ret_first)
{
    int n = 0;
    for (int i = 0; i < truth->n_objects; i++)
        if (place_of(&truth->objects[i]) == place && n++ == 0)
            *ret_first = &truth->objects[i];
    return n;
}

static int ask_shape_or_colour(uint64_t *rng, const struct vl_world_truth *now, enum vl_quiz_wording wording,
                               struct vl_quiz_item *ret)
{
    const struct vl_world_object *o = random_object(rng, now);
    bool shape = ret->category == VL_QUIZ_SHAPE;
    struct words words;
    if (!o || !find(now, shape ? -1 : o->shape, shape ? o->colour : -1))
        return 1;
    words = (struct words){o->shape, o->colour, 0};
    if (shape)
        WORD(shape_questions);
    else
        WORD(colour_questions);
    answer(ret, shape ? vl_world_shape_name(o->shape) : vl_world_colour_name(o->colour));
    about(ret, o);
    return 0;
}

static int ask_where(uint64_t *rng, const struct vl_world_truth *then, const struct vl_world_truth *now,
                     enum vl_quiz_wording wording, struct vl_quiz_item *ret)
{
    const struct vl_world_object *o = random_object(rng, then), *o_now;
    struct words words;
    if (!o)
        return 1;
    o_now = find(now, o->shape, o->colour);
    ret->changed = !o_now || place_of(o_now) != place_of(o);
    if (then != now && !ret->changed && chance(rng, 60))
        return 1;
    words = (struct words){o->shape, o->colour, 0};
    if (then == now)
        WORD(where_questions);
    else
        WORD(where_before_questions);
    answer(ret, vl_world_place_name(place_of(o)));
    about(ret, o);
    return 0;
}

static int ask_what(uint64_t *rng, const struct vl_world_truth *then, const struct vl_world_truth *now,
                    enum vl_quiz_wording wording, struct vl_quiz_item *ret)
{
    const struct vl_world_object *o = chance(rng, 75) ? random_object(rng, then) : NULL, *o_now = NULL;
    int place = o ? place_of(o) : (int)random_below(rng, VL_WORLD_N_PLACES);
    int n = n_at(then, place, &o), n_now = n_at(now, place, &o_now);
    struct words words = {0, 0, place};
    if (n > 1)
        return 1;
    ret->changed = n_now != n || (n == 1 && (o->shape != o_now->shape || o->colour != o_now->colour));
    if (then != now && !ret->changed && chance(rng, 60))
        return 1;
    if (then == now)
        WORD(what_at_questions);
    else
        WORD(what_before_questions);
    if (n) {
        (void)snprintf(ret->answer, sizeof(ret->answer), "%s %s %s.", article(o->colour),
                       vl_world_colour_name(o->colour), vl_world_shape_name(o->shape));
        capitalise(ret->answer);
        about(ret, o);
    } else {
        answer(ret, "nothing");
    }
    return 0;
}

static int ask_count(uint64_t *rng, const struct vl_world_truth *then, const struct vl_world_truth *now,
                     enum vl_quiz_wording wording, struct vl_quiz_item *ret)
{
    struct words words = {0};
    ret->changed = then->n_objects != now->n_objects;
    if (then != now && !ret->changed && chance(rng, 60))
        return 1;
    if (then == now)
        WORD(count_questions);
    else
        WORD(count_before_questions);
    (void)snprintf(ret->answer, sizeof(ret->answer), "%s", count_names[then->n_objects]);
    return 0;
}

static int ask_exists(uint64_t *rng, const struct vl_world_truth *now, enum vl_quiz_wording wording,
                      struct vl_quiz_item *ret)
{
    const struct vl_world_object *o = random_object(rng, now), *found;
    struct words words = {(int)random_below(rng, 8), (int)random_below(rng, 8), 0};
    if (o && chance(rng, 50)) {
        words.shape = o->shape;
        words.colour = o->colour;
    } else if (o && chance(rng, 50)) { /* half of the absent ones share a word with what is there */
        words.shape = o->shape;
    } else if (o) {
        words.colour = o->colour;
    }
    found = find(now, words.shape, words.colour);
    WORD(exists_questions);
    answer(ret, found ? "yes" : "no");
    if (found)
        about(ret, found);
    return 0;
}

static int ask_motion(uint64_t *rng, const struct vl_world_truth *before, const struct vl_world_truth *now,
                      enum vl_quiz_wording wording, struct vl_quiz_item *ret)
{
    const struct vl_world_object *o = random_object(rng, now);
    bool was_there = false;
    struct words words;
    for (int i = 0; i < now->n_objects && chance(rng, 80); i++) /* what moves is what is worth asking for */
        if (now->objects[i].direction != VL_WORLD_STILL)
            o = &now->objects[i];
    if (!o)
        return 1;
    for (int i = 0; i < before->n_objects; i++)
        was_there = was_there || before->objects[i].id == o->id;
    ret->moving = o->direction != VL_WORLD_STILL;
    if (!was_there || (!ret->moving && chance(rng, 55)))
        return 1;
    words = (struct words){o->shape, o->colour, 0};
    WORD(motion_questions);
    answer(ret, ret->moving ? vl_world_direction_name(o->direction) : "it is still");
    about(ret, o);
    return 0;
}

static int ask_last(uint64_t *rng, const struct vl_world_truth *history, size_t n_history,
                    enum vl_quiz_wording wording, struct vl_quiz_item *ret)
{
    struct words words = {0};
    for (size_t i = n_history; i-- > 1;) /* the first second has no caption */
        if (history[i].event.kind != VL_WORLD_QUIET) {
            WORD(last_questions);
            vl_quiz_caption(&history[i].event, ret->answer);
            ret->seconds_back = (int32_t)(n_history - 1 - i);
            return 0;
        }
    return 1;
}

static int ask_unknown(uint64_t *rng, enum vl_quiz_wording wording, struct vl_quiz_item *ret)
{
    struct words words = {(int)random_below(rng, 8), (int)random_below(rng, 8), (int)random_below(rng, 9)};
    const char *one = unknown_questions[random_below(rng, N_OF(unknown_questions))];
    word(rng, &one, 1, wording, &words, ret);
    (void)snprintf(ret->answer, sizeof(ret->answer), "%s", UNKNOWN_ANSWER);
    return 0;
}

int vl_quiz_ask(uint64_t *rng, const struct vl_world_truth *history, size_t n_history,
                enum vl_quiz_category category, enum vl_quiz_wording wording, struct vl_quiz_item *ret)
{
    const struct vl_world_truth *now = &history[n_history - 1], *then = now;
    bool past = category == VL_QUIZ_WHERE_BEFORE || category == VL_QUIZ_WHAT_BEFORE ||
                category == VL_QUIZ_COUNT_BEFORE;
    *ret = (struct vl_quiz_item){.category = (int32_t)category};
    if (past && n_history <= VL_QUIZ_SECONDS_BEFORE)
        return 1;
    if (past) {
        then = now - VL_QUIZ_SECONDS_BEFORE;
        ret->seconds_back = VL_QUIZ_SECONDS_BEFORE;
    }
    switch (category) {
    case VL_QUIZ_SHAPE:
    case VL_QUIZ_COLOUR:
        return ask_shape_or_colour(rng, now, wording, ret);
    case VL_QUIZ_WHERE:
    case VL_QUIZ_WHERE_BEFORE:
        return ask_where(rng, then, now, wording, ret);
    case VL_QUIZ_WHAT_AT:
    case VL_QUIZ_WHAT_BEFORE:
        return ask_what(rng, then, now, wording, ret);
    case VL_QUIZ_COUNT:
    case VL_QUIZ_COUNT_BEFORE:
        return ask_count(rng, then, now, wording, ret);
    case VL_QUIZ_EXISTS:
        return ask_exists(rng, now, wording, ret);
    case VL_QUIZ_MOTION:
        return n_history < 2 ? 1 : ask_motion(rng, now - 1, now, wording, ret);
    case VL_QUIZ_LAST:
        return ask_last(rng, history, n_history, wording, ret);
    case VL_QUIZ_UNKNOWN:
        return ask_unknown(rng, wording, ret);
    default:
        return 1;
    }
}

struct vl_quiz_scene vl_quiz_exam_scene(uint32_t index, float event_rate)
{
    static const int32_t sizes[3][2] = {{256, 144}, {256, 192}, {256, 256}};
    struct vl_quiz_scene scene = {.aspect = (int32_t)(index % 3), .n_seconds = VL_QUIZ_EXAM_SECONDS};
    scene.width = sizes[scene.aspect][0];
    scene.height = sizes[scene.aspect][1];
    /* the top bit: training draws seeds of 62 bits */
    scene.options = vl_world_default_options((1ULL << 63) + index * 0x10001ULL);
    scene.options.aspect = (float)scene.width / (float)scene.height;
    scene.options.event_rate = event_rate;
    scene.options.move_share = 0.5f;
    scene.options.n_start = (int32_t)(index / 3 % (VL_WORLD_MAX_OBJECTS + 1));
    scene.options.held_out = VL_WORLD_HELD_OUT_NEVER;
    if (index % 4 == 3) {
        scene.options.held_out = VL_WORLD_HELD_OUT_FORCED;
        scene.options.n_start = scene.options.n_start ? scene.options.n_start : 1;
    }
    return scene;
}

const char *vl_quiz_aspect_name(int aspect)
{
    static const char *const names[] = {"16:9", "4:3", "1:1"};
    return aspect >= 0 && aspect < 3 ? names[aspect] : NULL;
}

int vl_quiz_exam_ask(uint32_t index, const struct vl_world_truth *history, size_t n_history,
                     enum vl_quiz_category category, struct vl_quiz_item *ret)
{
    uint64_t rng = ((uint64_t)index << 32) ^ ((uint64_t)n_history << 16) ^ (uint64_t)category;
    if (!chance(&rng, 35))
        return 1;
    for (int try = 0; try < 4; try++)
        if (!vl_quiz_ask(&rng, history, n_history, category, index % 2 ? VL_QUIZ_ANY : VL_QUIZ_CONTRACT, ret))
            return 0;
    return 1;
}

/* The next character that counts, lower case: runs of spaces are one, ends and final marks are nothing. */
static int next_character(const char **text, bool start)
{
    const char *p = *text;
    bool space = false;
    int c;
    for (; isspace((unsigned char)*p); p++)
        space = true;
    if ((*p == '.' || *p == '?' || *p == '!') && p[1 + strspn(p + 1, " .?!\n")] == 0)
        p += strlen(p);
    if (!*p) {
        *text = p;
        return 0;
    }
    if (space && !start) {
        *text = p;
        return ' ';
    }
    c = tolower((unsigned char)*p);
    *text = p + 1;
    return c;
}

bool vl_quiz_same_text(const char *a, const char *b)
{
    bool start = true;
    for (;;) {
        int ca = next_character(&a, start), cb = next_character(&b, start);
        start = false;
        if (ca != cb)
            return false;
        if (!ca)
            return true;
    }
}

bool vl_quiz_is_right(const struct vl_quiz_item *item, const char *text)
{
    return vl_quiz_same_text(item->answer, text);
}
