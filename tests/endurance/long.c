/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * What does not change however long it lasts: form, rate and truth of what is said, silence about nothing,
 * memory and work. And what may not matter: questions beside it, breaks in the stream, policy and reducer.
 */
#include "tests/endurance/floors.h"
#include "tests/endurance/tests.h"

#include "kvcache/policy.h"
#include "tokenprune/reducer.h"

#include <stdio.h>
#include <string.h>

enum { MAX_MINUTES = 24 * 60 };

/* ---- ten minutes past the window ---- */

struct minute {
    uint32_t n_events, n_right, n_missed, n_false, n_captions, n_bad_form, n_repeated, n_asked, n_answered;
    uint32_t tokens[60], window[60]; /* by second: read and said, held */
    int64_t cpu_ns[60];
    uint64_t kv_bytes, private_bytes; /* most, and at the end */
};
static struct minute minutes[MAX_MINUTES];

static uint64_t private_dirty(void)
{
    FILE *f = fopen("/proc/self/smaps_rollup", "re");
    char line[256];
    unsigned long long kib = 0;
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "Private_Dirty: %llu kB", &kib) == 1)
            break;
    if (f)
        (void)fclose(f);
    return kib * 1024;
}

/* Whether it is one of the contract's captions, of whatever is there. */
static bool in_form(const char *said)
{
    for (int kind = VL_WORLD_APPEARED; kind <= VL_WORLD_MOVES; kind++)
        for (int shape = 0; shape < VL_WORLD_N_SHAPES; shape++)
            for (int colour = 0; colour < VL_WORLD_N_COLOURS; colour++)
                for (int i = 0; i < VL_WORLD_N_PLACES; i++) {
                    char want[VL_QUIZ_TEXT_SIZE];
                    struct vl_world_event e = {.kind = kind, .to_colour = i % VL_WORLD_N_COLOURS};
                    e.object = (struct vl_world_object){.shape = shape, .colour = colour, .direction = i % 4};
                    e.object.x = ((float)(i % 3) + 0.5f) / 3;
                    e.object.y = ((float)(i / 3) + 0.5f) / 3;
                    vl_quiz_caption(&e, want);
                    if (!strcmp(want, said))
                        return true;
                }
    return false;
}

static void count_second(struct play *p, struct minute *m, const char *said_before, uint64_t tokens)
{
    const char *said = p->feed.caption;
    bool right = vl_quiz_same_text(said, p->want);
    m->n_events += p->want[0] != '\0';
    m->n_right += p->want[0] && right;
    m->n_missed += p->want[0] && !said[0];
    m->n_false += !p->want[0] && said[0];
    m->n_captions += said[0] != '\0';
    if (said[0] && !in_form(said)) {
        m->n_bad_form++;
        floors_note("not a caption of the contract: '%s'", said);
    }
    m->n_repeated += said[0] && !strcmp(said, said_before) && !right;
    m->kv_bytes = p->feed.stats.kv_bytes > m->kv_bytes ? p->feed.stats.kv_bytes : m->kv_bytes;
    m->tokens[p->second % 60] = (uint32_t)tokens;
    m->window[p->second % 60] = p->feed.stats.window_tokens;
}

static void run_minutes(struct play *p, uint32_t n)
{
    struct play_opts o = play_defaults("seeded", 27, n * 60);
    char before[VL_QUIZ_TEXT_SIZE] = "";
    uint64_t tokens = 0;
    o.event_rate = 0.35f;
    memset(minutes, 0, sizeof(minutes));
    play_open(p, &o);
    while (play_next(p)) {
        struct minute *m = &minutes[p->second / 60];
        uint64_t now = p->feed.stats.n_visual_tokens + p->feed.stats.n_text_tokens;
        m->cpu_ns[p->second % 60] = p->feed.cpu_ns;
        count_second(p, m, before, now - tokens);
        tokens = now;
        (void)snprintf(before, sizeof(before), "%.127s", p->feed.caption);
        if (p->second % 20 == 10 || p->second == 5 || p->second == 17) {
            int r = play_quiz(p, p->second % 40 == 10 ? VL_QUIZ_WHERE : VL_QUIZ_COUNT);
            m->n_asked += r >= 0;
            m->n_answered += r == 1;
        }
        if (p->second % 60 != 59)
            continue;
        m->private_bytes = private_dirty();
        floors_note(
            "minute %2lld: %2u events, %2u right, %u missed, %u false, %u answers of %u, window %u tokens",
            (long long)(p->second / 60 + 1), m->n_events, m->n_right, m->n_missed, m->n_false, m->n_answered,
            m->n_asked, p->feed.stats.window_tokens);
    }
}

static int by_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint32_t p95(uint32_t v[60])
{
    qsort(v, 60, sizeof(*v), by_u32);
    return v[57];
}

/* Sums of minutes [from, to). */
static struct minute sum(uint32_t from, uint32_t to)
{
    struct minute s = {0};
    for (uint32_t i = from; i < to; i++) {
        const struct minute *m = &minutes[i];
        s.n_events += m->n_events;
        s.n_right += m->n_right;
        s.n_missed += m->n_missed;
        s.n_false += m->n_false;
        s.n_captions += m->n_captions;
        s.n_bad_form += m->n_bad_form;
        s.n_repeated += m->n_repeated;
        s.n_asked += m->n_asked;
        s.n_answered += m->n_answered;
    }
    return s;
}

static int64_t cpu_p95(const struct minute *m)
{
    uint32_t us[60];
    for (int i = 0; i < 60; i++)
        us[i] = (uint32_t)(m->cpu_ns[i] / 1000);
    return p95(us);
}

/* 23 and 27. The first minute holds the filling of the window; what grows is compared with the second. */
static void past_the_window(struct play *p)
{
    uint32_t n = play_setup.minutes + 1;
    if (n > MAX_MINUTES)
        vl_feed_die("at most %d minutes", MAX_MINUTES - 1);
    run_minutes(p, n);
    struct minute all = sum(0, n), first = sum(0, n / 3), last = sum(n - n / 3, n);
    struct minute *second = &minutes[1], *end = &minutes[n - 1];
    double recall_first = play_percent(first.n_events - first.n_missed, first.n_events);
    double recall_last = play_percent(last.n_events - last.n_missed, last.n_events);
    floors_check("long, captions right", play_percent(all.n_right, all.n_events));
    floors_check("long, events with a caption, last third", recall_last);
    floors_check("long, events with a caption, lost since first third", recall_first - recall_last);
    floors_check("long, events with a caption, last minute",
                 play_percent(end->n_events - end->n_missed, end->n_events));
    floors_check("long, false captions a minute", (double)all.n_false / n);
    floors_check("long, false a minute, more than in first third",
                 ((double)last.n_false - first.n_false) * 3 / n);
    floors_check("long, captions not in the contract's form", all.n_bad_form);
    floors_check("long, captions said twice in a row", all.n_repeated);
    floors_check("long, answers right, last third", play_percent(last.n_answered, last.n_asked));
    floors_check("long, KV growth, percent", 100.0 * ((double)end->kv_bytes / (double)second->kv_bytes - 1));
    floors_check("long, private memory growth, percent",
                 100.0 * ((double)end->private_bytes / (double)second->private_bytes - 1));
    floors_note("CPU time of a frame, p95: %.1f ms in minute 2, %.1f ms in the last",
                (double)cpu_p95(second) / 1e3, (double)cpu_p95(end) / 1e3);
    floors_check("long, tokens of a frame, p95 over minute 2",
                 (double)p95(end->tokens) / p95(second->tokens));
    floors_check("long, tokens held, p95 over minute 2", (double)p95(end->window) / p95(second->window));
}

/* ---- silence ---- */

static void silence(struct play *p)
{
    static const char *const world[] = {"empty", "still"};
    for (size_t i = 0; i < 2; i++) {
        enum { SEEDS = 2, SECONDS = 30 };
        uint32_t n_false = 0;
        char name[48];
        for (uint64_t seed = 1; seed <= SEEDS; seed++) {
            struct play_opts o = play_defaults(world[i], 240 + seed, SECONDS);
            play_open(p, &o);
            play_all(p);
            n_false += p->n_false;
        }
        (void)snprintf(name, sizeof(name), "silence, %s: false a minute", world[i]);
        floors_check(name, n_false * 60.0 / (SEEDS * SECONDS));
    }
}

/* ---- whatever the policy and the reducer ---- */

enum { CLIP = 20 };
struct clip {
    char said[CLIP][VL_QUIZ_TEXT_SIZE];
    uint64_t n_tokens, kv_bytes, n_visual;
    uint32_t n_events, n_right, n_false;
};

static void watch_clip(struct play *p, const struct play_opts *o, bool ask, struct clip *ret)
{
    *ret = (struct clip){0};
    for (play_open(p, o); play_next(p);) {
        (void)snprintf(ret->said[p->second % CLIP], VL_QUIZ_TEXT_SIZE, "%.127s", p->feed.caption);
        for (int c = 0; ask && c < VL_QUIZ_N_CATEGORIES; c += 1 + (int)(p->second % 3))
            (void)play_quiz(p, (enum vl_quiz_category)c);
    }
    ret->n_tokens = p->feed.stats.n_text_tokens + p->feed.stats.n_visual_tokens;
    ret->n_visual = p->feed.stats.n_visual_tokens;
    ret->kv_bytes = p->feed.stats.kv_bytes;
    ret->n_events = p->n_events;
    ret->n_right = p->n_right;
    ret->n_false = p->n_false;
}

/* 24 and 25: the clip with questions says what it says without them, word for word, and a still scene
 * nothing. */
static void policy_or_reducer(struct play *p, const char *policy, const char *reducer)
{
    static struct clip alone, asked;
    const char *name = reducer ? reducer : policy;
    char row[96];
    struct play_opts o = play_defaults("seeded", 25, CLIP);
    o.event_rate = 0.35f;
    o.policy = policy;
    o.reducer = reducer;
    o.visual_budget = reducer ? 32 : 0;
    watch_clip(p, &o, false, &alone);
    watch_clip(p, &o, true, &asked);
    uint32_t n_other = 0;
    for (int i = 0; i < CLIP; i++)
        n_other += strcmp(alone.said[i], asked.said[i]) != 0;
    n_other += alone.n_tokens != asked.n_tokens || alone.kv_bytes != asked.kv_bytes;
    floors_check("interference, captions changed by questions", n_other);
    struct play_opts still = play_defaults("still", 24, CLIP);
    still.policy = policy;
    still.reducer = reducer;
    still.visual_budget = o.visual_budget;
    play_open(p, &still);
    play_all(p);
    (void)snprintf(row, sizeof(row), "silence, false captions by %s", name);
    floors_check_if_known(row, p->n_false);
    floors_note(
        "%s: in a busy clip %u of %u captions right, %u false; in the still one %.1f visual tokens a frame",
        name, alone.n_right, alone.n_events, alone.n_false, (double)p->feed.stats.n_visual_tokens / CLIP);
}

static void policies(struct play *p)
{
    for (size_t i = 0; vl_kv_policies[i]; i++)
        policy_or_reducer(p, vl_kv_policies[i]->name, NULL);
}

static void reducers(struct play *p)
{
    for (size_t i = 0; vl_reducers[i]; i++)
        if (!vl_reducers[i]->needs_question)
            policy_or_reducer(p, NULL, vl_reducers[i]->name);
}

/* ---- breaks ---- */

/* What a stream with a break in it came to. */
struct broken {
    uint32_t n_gaps, n_false_at, n_false_later, n_right, n_asked;
    uint64_t kv_most;
};

/* Where everything is that the world shows now; behind a cut that is another world than the one played. */
static void ask_places(struct play *p, const struct vl_world_truth *now, struct broken *b)
{
    for (int32_t k = 0; k < now->n_objects; k++, b->n_asked++) {
        const struct vl_world_object *it = &now->objects[k];
        b->n_right += play_ask(p, vl_world_place_name(vl_world_place(it->x, it->y)), "Where is the %s %s?",
                               vl_world_colour_name(it->colour), vl_world_shape_name(it->shape));
    }
}

/* A still scene, a break in it after 12 s; asked 3 s after it, behind a hole in time as soon as there are
 * pictures, and at the end. */
static struct broken break_at_12(struct play *p, const char *fault)
{
    enum { AT = 12, SECONDS = 30 };
    struct play_opts o = play_defaults("still", 27, SECONDS);
    struct vl_script_options other = vl_script_default_options(o.seed + 1, 256, 144);
    struct broken b = {0};
    vl_auto(vl_script) behind = NULL;
    struct vl_error err;
    bool asked = false;
    o.fault = fault;
    other.name = o.world;
    if (vl_script_new(&other, &behind, &err) < 0)
        vl_feed_die("%s", err.msg);
    for (play_open(p, &o); play_next(p);) {
        bool cut = fault && !strncmp(fault, "cut", 3) && p->second >= AT;
        b.n_gaps += p->n_frames > 1 && (p->flags & VL_FRAME_GAP);
        b.kv_most = p->feed.stats.kv_bytes > b.kv_most ? p->feed.stats.kv_bytes : b.kv_most;
        *(p->second < AT + 2 ? &b.n_false_at : &b.n_false_later) += p->feed.caption[0] != '\0';
        if ((p->second >= AT + 3 && !asked) || p->second == SECONDS - 1)
            ask_places(p, cut ? vl_script_truth(behind) : play_truth(p), &b);
        asked = p->second >= AT + 3;
    }
    return b;
}

/* 27. What comes after a break is seen as well as without one, nothing is said about it later than at once,
 * and it holds no more memory. */
static void resets(struct play *p)
{
    static const struct {
        const char *fault;
        uint32_t n_gaps; /* that are told: the window starts anew */
    } kind[] = {{"cut@12", 0},   {"drop@12", 0},     {"gap@12", 1},    {"back@12", 1},
                {"ahead@12", 1}, {"geometry@12", 0}, {"corrupt@12", 0}};
    struct broken whole = break_at_12(p, NULL), all = {0};
    uint32_t n_other = 0;
    for (size_t i = 0; i < sizeof(kind) / sizeof(*kind); i++) {
        struct broken b = break_at_12(p, kind[i].fault);
        floors_note("%s: %u gaps told, %u captions at the break, %u later, %u places of %u", kind[i].fault,
                    b.n_gaps, b.n_false_at, b.n_false_later, b.n_right, b.n_asked);
        n_other += b.n_gaps != kind[i].n_gaps;
        all.n_right += b.n_right;
        all.n_asked += b.n_asked;
        all.n_false_at += b.n_false_at;
        all.n_false_later += b.n_false_later;
        all.kv_most = b.kv_most > all.kv_most ? b.kv_most : all.kv_most;
    }
    floors_check("resets, places", play_percent(all.n_right, all.n_asked));
    floors_check("resets, gaps told other than they should be", n_other);
    floors_check("resets, captions at the break", all.n_false_at);
    floors_check("resets, captions later", all.n_false_later);
    floors_check("resets, KV bytes over those without", (double)all.kv_most / (double)whole.kv_most);
}

const struct endurance_test endurance_long[] = {
    {"long", "23, 27: minutes past the window (--minutes)", past_the_window},
    {"silence", "24: nothing happens", silence},
    {"policies", "24, 25: each KV policy, with and without questions", policies},
    {"reducers", "24, 25: each reducer of arrival, with and without questions", reducers},
    {"resets", "27: cuts, holes and jumps of time", resets},
    {NULL, NULL, NULL},
};
